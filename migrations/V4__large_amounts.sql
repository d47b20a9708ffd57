-- A refund of many clicks may be more than NUMERIC(15, 2) holds, and sums of such more than 64 bits. Only the declarations
-- change: no row is rewritten.
ALTER TABLE balance_ledger ALTER COLUMN amount TYPE NUMERIC(19, 2);
ALTER TABLE advertisers ALTER COLUMN balance TYPE NUMERIC(38, 2);
ALTER TABLE campaigns ALTER COLUMN debits TYPE NUMERIC(38, 2), ALTER COLUMN credits TYPE NUMERIC(38, 2);
