-- An SQLite file is one server's: what its workers say stays in memory. See postgres/ for what servers
-- that share a store write of them.
SELECT 1;
