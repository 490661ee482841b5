-- A half hour of reports every ten seconds takes 2,880 bytes, of which a page holds two in its rows. Out of line it holds nearly all that fits.
ALTER TABLE sealed_reports RESET (toast_tuple_target);
