//! Records that workers can't use, and texts that databases can't hold.

use serde_json::json;

use super::place::Place;
use super::{assert_balanced, campaign_event, click, refund};

#[test]
fn no_record_ends_a_worker_and_none_is_lost() {
    let Some(place) = Place::new(1) else { return };
    place.execute("INSERT INTO campaigns (campaign_id, budget) VALUES (1, 0.50), (2, 0.50)");
    let odd = |campaign| {
        campaign_event("CAMPAIGN_CREATE", "09:00:00", campaign, "1.25").replace("top", "t\\u0000p")
    };
    place.produce(
        "campaign-events",
        &[odd(1), "{".to_owned(), campaign_event("CAMPAIGN_CREATE", "09:00:00", 2, "1.25")],
    );
    place.produce("ad-events", &[click(0, 1, 50), click(0, 2, 50)]);
    place.run("worker all --until-end");
    assert_eq!(place.own_campaign_events().len(), 2);
    let large = "10000000000000.01";
    place.produce(
        "compensation-events",
        &[
            refund(&"x".repeat(9000), 1, large),
            refund("y\\u0000", 1, large),
            refund("z", 1, "92233720368547758.07"),
            refund("v", 1, "92233720368547758.07"),
            refund("w", 1, "92233720368547758.08"),
            refund("", 1, "0.01"),
            refund("y\\u0000", 1, large),
            "no refund".to_owned(),
        ],
    );
    let log = place.run("worker all --until-end");
    assert!(log.contains("records had no effect; they are in the topic dead-letter"), "{log}");
    let credits = "SELECT amount FROM balance_ledger WHERE entry_type = 'CREDIT' ORDER BY \"offset\"";
    let most = "92233720368547758.07";
    assert_eq!(place.rows(credits), [large, large, most, most]);
    assert_eq!(place.rows("SELECT balance FROM advertisers"), ["184487440737095515.16"]);
    assert_balanced(&place);
    assert_eq!(place.budget(1), ("0.50".to_owned(), "184487440737095516.16".to_owned()));
    // Its ranking is the one it was in.
    let told = place.own_campaign_events();
    let activated =
        told.iter().find(|event| event["event_type"] == "CAMPAIGN_ACTIVATE").expect("it stays paused");
    assert_eq!(activated["placement"], "t\0p");

    let letters = place.records("dead-letter");
    let of = |worker: &str| -> Vec<(String, u64, String)> {
        let of = letters.iter().filter(|(_, letter)| letter["worker"] == worker);
        of.map(|(_, letter)| {
            let text = |field: &str| letter[field].as_str().unwrap().to_owned();
            (text("topic"), letter["offset"].as_u64().unwrap(), text("reason"))
        })
        .collect()
    };
    let refunds = [(4, "bad_money"), (5, "missing_field"), (7, "not_json")];
    let refunds =
        refunds.map(|(offset, reason)| ("compensation-events".to_owned(), offset, reason.to_owned()));
    assert_eq!(of("compensation"), refunds);
    assert_eq!(of("budget"), refunds);
    assert_eq!(of("campaign-status"), [("campaign-events".to_owned(), 1, "not_json".to_owned())]);
    let last = letters
        .iter()
        .find(|(_, letter)| letter["worker"] == "compensation" && letter["offset"] == 7)
        .unwrap();
    assert_eq!(last.0, "compensation-compensation-events-0-7");
    assert_eq!(last.1["value"], json!("no refund"));
    assert!(last.1["timestamp"].is_i64());
}
