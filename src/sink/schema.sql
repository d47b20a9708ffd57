-- The results, under the names and columns that every adtide database has.
-- Money is TEXT with two decimals, times are TEXT 'yyyy-MM-dd HH:mm:ss.SSS' in UTC, metric_time without '.SSS'.

CREATE TABLE IF NOT EXISTS rtb_ranking_cache (
    placement       TEXT NOT NULL,
    category        TEXT NOT NULL,
    ranking_list    TEXT NOT NULL,
    total_campaigns INTEGER NOT NULL,
    updated_at      TEXT NOT NULL,
    PRIMARY KEY (placement, category)
);

CREATE TABLE IF NOT EXISTS ad_performance_metrics_realtime (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    campaign_id      INTEGER NOT NULL,
    product_id       INTEGER NOT NULL,
    placement        TEXT NOT NULL,
    -- The window's start.
    metric_time      TEXT NOT NULL,
    impression_count INTEGER NOT NULL,
    click_count      INTEGER NOT NULL,
    conversion_count INTEGER NOT NULL,
    total_spend      TEXT NOT NULL,
    total_revenue    TEXT NOT NULL,
    ctr              REAL NOT NULL,
    cvr              REAL NOT NULL,
    roas             REAL NOT NULL,
    updated_at       TEXT NOT NULL,
    is_final         INTEGER NOT NULL,
    UNIQUE (metric_time, campaign_id, product_id, placement)
);

CREATE TABLE IF NOT EXISTS conversion_attribution_results (
    ad_id              TEXT,
    campaign_id        INTEGER,
    advertiser_id      INTEGER NOT NULL,
    product_id         INTEGER NOT NULL,
    order_id           TEXT NOT NULL,
    revenue_amount     TEXT NOT NULL,
    -- Whole seconds, cut.
    time_to_conversion INTEGER NOT NULL,
    attribution_model  TEXT NOT NULL,
    click_time         TEXT NOT NULL,
    conversion_time    TEXT NOT NULL,
    processed_at       TEXT NOT NULL,
    PRIMARY KEY (order_id, product_id, attribution_model)
);

-- Rows of conversions whose order came again after conversion.repeat_within, and has a newer row.
CREATE TABLE IF NOT EXISTS adtide_superseded_attributions (
    order_id           TEXT NOT NULL,
    product_id         INTEGER NOT NULL,
    attribution_model  TEXT NOT NULL,
    ad_id              TEXT,
    campaign_id        INTEGER,
    advertiser_id      INTEGER NOT NULL,
    revenue_amount     TEXT NOT NULL,
    time_to_conversion INTEGER NOT NULL,
    click_time         TEXT NOT NULL,
    conversion_time    TEXT NOT NULL,
    processed_at       TEXT NOT NULL,
    PRIMARY KEY (order_id, product_id, attribution_model, conversion_time)
);

-- How far this database has got: written in the transaction of the rows it stands for.
CREATE TABLE IF NOT EXISTS adtide_progress (
    sink       TEXT PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    watermarks TEXT,
    updated_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS adtide_progress_partitions (
    sink        TEXT NOT NULL,
    topic       TEXT NOT NULL,
    partition   INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    greatest    TEXT,
    watermarks  TEXT NOT NULL,
    state       TEXT NOT NULL,
    wakes       TEXT,
    file        TEXT,
    judgements  TEXT,
    PRIMARY KEY (sink, topic, partition)
);

-- The run that wrote the results: its settings, by which they can be verified, and the topics that it read.
CREATE TABLE IF NOT EXISTS adtide_run (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    settings TEXT NOT NULL,
    source   TEXT NOT NULL
);
