-- Rows of conversions whose order came again after conversion.repeat_within, and has a newer row: if that goes, because of a
-- record that came late, the one before it is the result again.
CREATE TABLE adtide_superseded_attributions (
    LIKE conversion_attribution_results,
    PRIMARY KEY (order_id, product_id, attribution_model, conversion_time)
);
