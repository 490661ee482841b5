-- First the index that it replaces goes, which waits for all users of the table while this holds no lock of it.
drop index deliveries_by_sink;
-- The order of claims. Of an expression, so that it serves nothing else: after a vacuum that found the table empty, the planner takes any index for a tiny one, and
-- looked up single events by reading all entries of a sink.
create index deliveries_in_order on deliveries (sink, (event + 0));
