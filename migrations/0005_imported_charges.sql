-- Charges of a day that were taken in from the ledger, because the database did not know them.
ALTER TABLE ledger_days ADD COLUMN imported BIGINT NOT NULL DEFAULT 0;
