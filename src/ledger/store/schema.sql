-- What the workers keep, as in PostgreSQL (migrations/V2__ledger.sql).
-- Money is TEXT with two decimals, times are TEXT 'yyyy-MM-dd HH:mm:ss.SSS' in UTC.

CREATE TABLE IF NOT EXISTS advertisers (
    advertiser_id   INTEGER PRIMARY KEY,
    name            TEXT,
    opening_balance TEXT NOT NULL DEFAULT '0.00',
    balance         TEXT NOT NULL DEFAULT '0.00',
    updated_at      TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS campaigns (
    campaign_id     INTEGER PRIMARY KEY,
    advertiser_id   INTEGER,
    product_id      INTEGER,
    placement       TEXT,
    category        TEXT,
    bid_price       TEXT,
    status          TEXT,
    state_time      TEXT,
    state_partition INTEGER,
    state_offset    INTEGER,
    budget          TEXT,
    debits          TEXT NOT NULL DEFAULT '0.00',
    credits         TEXT NOT NULL DEFAULT '0.00',
    last_entry      TEXT,
    budget_status   TEXT NOT NULL DEFAULT 'WITHIN_BUDGET',
    announced       TEXT,
    announced_time  TEXT,
    is_settled      INTEGER NOT NULL DEFAULT 1,
    updated_at      TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS balance_ledger (
    entry_id        INTEGER PRIMARY KEY AUTOINCREMENT,
    entry_type      TEXT NOT NULL CHECK (entry_type IN ('DEBIT', 'CREDIT')),
    advertiser_id   INTEGER NOT NULL,
    campaign_id     INTEGER,
    amount          TEXT NOT NULL,
    event_time      TEXT NOT NULL,
    topic           TEXT NOT NULL,
    partition       INTEGER NOT NULL,
    "offset"        INTEGER NOT NULL,
    compensation_id TEXT UNIQUE,
    created_at      TEXT NOT NULL,
    UNIQUE (topic, partition, "offset"),
    CHECK ((entry_type = 'CREDIT') = (compensation_id IS NOT NULL))
);
CREATE TABLE IF NOT EXISTS worker_offsets (
    worker      TEXT NOT NULL,
    topic       TEXT NOT NULL,
    partition   INTEGER NOT NULL,
    owner       TEXT NOT NULL,
    next_offset INTEGER NOT NULL,
    updated_at  TEXT NOT NULL,
    file        TEXT,
    PRIMARY KEY (worker, topic, partition)
);
CREATE TABLE IF NOT EXISTS campaign_outbox (
    event_id     INTEGER PRIMARY KEY AUTOINCREMENT,
    campaign_id  INTEGER NOT NULL,
    event        TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    published_at TEXT
);
CREATE INDEX IF NOT EXISTS campaign_outbox_waiting ON campaign_outbox (event_id) WHERE published_at IS NULL;
-- The partition of campaign-events that is adtide's own, where the topic is a folder of partitions.
CREATE TABLE IF NOT EXISTS campaign_outbox_partition (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    partition INTEGER NOT NULL
);

-- What Redis has in budget:campaign:{id}, and the refunds that are in it.
CREATE TABLE IF NOT EXISTS campaign_budget (
    campaign_id INTEGER PRIMARY KEY,
    spent       TEXT NOT NULL DEFAULT '0.00',
    refunded    TEXT NOT NULL DEFAULT '0.00',
    updated_at  TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS campaign_budget_refunds (
    compensation_id TEXT PRIMARY KEY
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS product_metrics_cache (
    product_id INTEGER PRIMARY KEY,
    ctr        REAL NOT NULL,
    cvr        REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS product_meta_data (
    product_id    INTEGER PRIMARY KEY,
    product_price TEXT NOT NULL
);

-- Records that a worker has left out, each as the JSON of a dead letter.
CREATE TABLE IF NOT EXISTS worker_dead_letters (
    worker     TEXT NOT NULL,
    topic      TEXT NOT NULL,
    partition  INTEGER NOT NULL,
    "offset"   INTEGER NOT NULL,
    reason     TEXT NOT NULL,
    record     TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (worker, topic, partition, "offset")
);
