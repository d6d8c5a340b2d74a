-- How many heartbeats there were, in all attempts: descriptions of standalone activities show it.
ALTER TABLE heartbeats ADD COLUMN total INTEGER NOT NULL DEFAULT 0;
