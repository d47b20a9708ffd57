-- Gives the results of statements 2 and 3 the columns, and their order, of the Flink SQL that people's queries come from:
-- metric_time for window_start and window_end, updated_at before is_final; the click before the conversion.
-- PostgreSQL appends columns only: what belongs further back is copied to a new column. The tables themselves stay, and so
-- do their rows, indexes, owners and grants. A view on a column that moves has to be dropped before, and made anew.
SET LOCAL statement_timeout = 0;

ALTER TABLE ad_performance_metrics_realtime RENAME COLUMN window_start TO metric_time;
ALTER TABLE ad_performance_metrics_realtime RENAME COLUMN is_final TO former_is_final;
ALTER TABLE ad_performance_metrics_realtime ADD COLUMN is_final BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE ad_performance_metrics_realtime SET is_final = TRUE WHERE former_is_final;
ALTER TABLE ad_performance_metrics_realtime
    DROP COLUMN window_end,
    DROP COLUMN former_is_final,
    ALTER COLUMN is_final DROP DEFAULT,
    ALTER COLUMN metric_time TYPE TIMESTAMP(0);

ALTER TABLE conversion_attribution_results RENAME COLUMN product_id TO former_product_id;
ALTER TABLE conversion_attribution_results RENAME COLUMN order_id TO former_order_id;
ALTER TABLE conversion_attribution_results RENAME COLUMN revenue_amount TO former_revenue_amount;
ALTER TABLE conversion_attribution_results RENAME COLUMN time_to_conversion TO former_time_to_conversion;
ALTER TABLE conversion_attribution_results RENAME COLUMN attribution_model TO former_attribution_model;
ALTER TABLE conversion_attribution_results RENAME COLUMN click_time TO former_click_time;
ALTER TABLE conversion_attribution_results RENAME COLUMN conversion_time TO former_conversion_time;
ALTER TABLE conversion_attribution_results RENAME COLUMN processed_at TO former_processed_at;
ALTER TABLE conversion_attribution_results
    ADD COLUMN product_id         BIGINT,
    ADD COLUMN order_id           TEXT,
    ADD COLUMN revenue_amount     NUMERIC(15, 2),
    -- Whole seconds, cut.
    ADD COLUMN time_to_conversion BIGINT,
    ADD COLUMN attribution_model  TEXT,
    ADD COLUMN click_time         TIMESTAMP(3),
    ADD COLUMN conversion_time    TIMESTAMP(3),
    ADD COLUMN processed_at       TIMESTAMPTZ;
UPDATE conversion_attribution_results
SET product_id = former_product_id, order_id = former_order_id, revenue_amount = former_revenue_amount,
    time_to_conversion = former_time_to_conversion, attribution_model = former_attribution_model,
    click_time = former_click_time, conversion_time = former_conversion_time, processed_at = former_processed_at;
-- The primary key goes with its columns, and comes back with the new ones.
ALTER TABLE conversion_attribution_results
    DROP COLUMN former_product_id,
    DROP COLUMN former_order_id,
    DROP COLUMN former_revenue_amount,
    DROP COLUMN former_time_to_conversion,
    DROP COLUMN former_attribution_model,
    DROP COLUMN former_click_time,
    DROP COLUMN former_conversion_time,
    DROP COLUMN former_processed_at;
ALTER TABLE conversion_attribution_results
    ALTER COLUMN revenue_amount SET NOT NULL,
    ALTER COLUMN time_to_conversion SET NOT NULL,
    ALTER COLUMN click_time SET NOT NULL,
    ALTER COLUMN conversion_time SET NOT NULL,
    ALTER COLUMN processed_at SET NOT NULL,
    ADD PRIMARY KEY (order_id, product_id, attribution_model);
