-- What the workers keep: balances, budgets, the ledger, and how far each worker has read.
-- Times of events are UTC. Whatever a worker changes, it changes in one transaction with its row in worker_offsets.

CREATE TABLE advertisers (
    advertiser_id   BIGINT PRIMARY KEY,
    name            TEXT,
    opening_balance NUMERIC(19, 2) NOT NULL DEFAULT 0,
    -- Always the opening balance - debits + credits. It may be negative: a click has happened when it is told.
    balance         NUMERIC(19, 2) NOT NULL DEFAULT 0,
    updated_at      TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE campaigns (
    campaign_id     BIGINT PRIMARY KEY,
    advertiser_id   BIGINT,
    product_id      BIGINT,
    placement       TEXT,
    category        TEXT,
    bid_price       NUMERIC(10, 2),
    -- What its owner wants: ACTIVE, INACTIVE, PAUSED or DELETED; NULL while campaign-events has not told.
    status          TEXT,
    -- The owner's newest event: its time, partition and offset.
    state_time      TIMESTAMP(3),
    state_partition INTEGER,
    state_offset    BIGINT,
    -- NULL for no limit.
    budget          NUMERIC(19, 2),
    -- The sums of its entries in balance_ledger, and the greatest event time among them.
    debits          NUMERIC(19, 2) NOT NULL DEFAULT 0,
    credits         NUMERIC(19, 2) NOT NULL DEFAULT 0,
    last_entry      TIMESTAMP(3),
    -- WITHIN_BUDGET or BUDGET_EXHAUSTED.
    budget_status   TEXT NOT NULL DEFAULT 'WITHIN_BUDGET',
    -- adtide's own newest event: CAMPAIGN_PAUSE or CAMPAIGN_ACTIVATE, and its time.
    announced       TEXT,
    announced_time  TIMESTAMP(3),
    -- Whether campaign-status has seen all of the above.
    is_settled      BOOLEAN NOT NULL DEFAULT TRUE,
    updated_at      TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE balance_ledger (
    entry_id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- DEBIT for a click, CREDIT for a refund.
    entry_type      TEXT NOT NULL CHECK (entry_type IN ('DEBIT', 'CREDIT')),
    advertiser_id   BIGINT NOT NULL,
    campaign_id     BIGINT,
    amount          NUMERIC(15, 2) NOT NULL,
    -- When the click happened; of a refund, the start of its window.
    event_time      TIMESTAMP(3) NOT NULL,
    -- The record that it comes from.
    topic           TEXT NOT NULL,
    partition       INTEGER NOT NULL,
    "offset"        BIGINT NOT NULL,
    -- Of credits only: one refund is paid once, however often it is told.
    compensation_id TEXT UNIQUE,
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (topic, partition, "offset"),
    CHECK ((entry_type = 'CREDIT') = (compensation_id IS NOT NULL))
);
CREATE INDEX balance_ledger_advertiser ON balance_ledger (advertiser_id);

-- How far each worker has read each partition, and which process reads it. A commit counts only if its process still
-- owns the partition and the partition stands where that process believes it to stand.
CREATE TABLE worker_offsets (
    worker      TEXT NOT NULL,
    topic       TEXT NOT NULL,
    partition   INTEGER NOT NULL,
    owner       TEXT NOT NULL,
    next_offset BIGINT NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (worker, topic, partition)
) WITH (fillfactor = 50);

-- Campaign events to be published, in this order.
CREATE TABLE campaign_outbox (
    event_id     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id  BIGINT NOT NULL,
    event        TEXT NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    published_at TIMESTAMPTZ
);
CREATE INDEX campaign_outbox_waiting ON campaign_outbox (event_id) WHERE published_at IS NULL;

-- The products of the demonstration, as an ad platform's own database has them. adtide reads products from its topics.
CREATE TABLE product_metrics_cache (
    product_id BIGINT PRIMARY KEY,
    ctr        DOUBLE PRECISION NOT NULL,
    cvr        DOUBLE PRECISION NOT NULL
);
CREATE TABLE product_meta_data (
    product_id    BIGINT PRIMARY KEY,
    product_price NUMERIC(15, 2) NOT NULL
);
