-- The results of statements 2 and 3, and how far each deployment has got with writing them.
-- Times of events are UTC. No column of a text key is bounded: adtide shortens what an index can't hold.

CREATE TABLE ad_performance_metrics_realtime (
    id               BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id      BIGINT NOT NULL,
    product_id       BIGINT NOT NULL,
    placement        TEXT NOT NULL,
    window_start     TIMESTAMP(3) NOT NULL,
    window_end       TIMESTAMP(3) NOT NULL,
    impression_count BIGINT NOT NULL,
    click_count      BIGINT NOT NULL,
    conversion_count BIGINT NOT NULL,
    -- 19 digits hold the greatest sum, 92 quadrillion: one that did not fit would stop everything.
    total_spend      NUMERIC(19, 2) NOT NULL,
    total_revenue    NUMERIC(19, 2) NOT NULL,
    ctr              DOUBLE PRECISION NOT NULL,
    cvr              DOUBLE PRECISION NOT NULL,
    roas             DOUBLE PRECISION NOT NULL,
    is_final         BOOLEAN NOT NULL,
    updated_at       TIMESTAMPTZ NOT NULL,
    UNIQUE (window_start, campaign_id, product_id, placement)
-- A row is updated many times while its window is open; with room on its page no index is touched by that.
) WITH (fillfactor = 70);

CREATE TABLE conversion_attribution_results (
    order_id           TEXT NOT NULL,
    product_id         BIGINT NOT NULL,
    attribution_model  TEXT NOT NULL,
    ad_id              TEXT,
    campaign_id        BIGINT,
    advertiser_id      BIGINT NOT NULL,
    revenue_amount     NUMERIC(15, 2) NOT NULL,
    -- Seconds.
    time_to_conversion BIGINT NOT NULL,
    click_time         TIMESTAMP(3) NOT NULL,
    conversion_time    TIMESTAMP(3) NOT NULL,
    processed_at       TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (order_id, product_id, attribution_model)
);

-- One row a deployment, written in the transaction of the rows that it stands for. A run that starts takes the next
-- number; from then on no older run can write. Before the first commit there is a number only.
CREATE TABLE adtide_progress (
    -- The deployment's name.
    sink       TEXT PRIMARY KEY,
    run        BIGINT NOT NULL,
    -- The settings and topics of the run that wrote the results.
    settings   JSONB,
    source     TEXT,
    epoch      BIGINT,
    watermarks JSONB,
    partitions JSONB,
    updated_at TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);
