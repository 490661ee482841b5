-- A row's old version can be cleared away in passing only when no transaction can see it any more, and with several writers
-- one is nearly always under way: a page needs room for about three versions beside the one that counts, or updates leave
-- it and touch the index. Pages that are there keep their filling until they are rewritten.
ALTER TABLE latest SET (fillfactor = 25);
