//! One statement in a timely program of your own: refunds for duplicate clicks.
//!
//! ```text
//! cargo run -p adtide-dataflows --example one_statement
//! ```

use adtide_dataflows::duplicate_detector::{ClickGroup, PaidClick, duplicate_detector};
use adtide_dataflows::model::{AdId, EventTime, Money, Topic};
use adtide_dataflows::operators::{PartitionReport, PartitionState, Watermarks, watermarks};
use adtide_dataflows::{DeltaLog, RoutingKey, Settings};
use timely::dataflow::operators::Input;

fn main() {
    timely::execute_directly(|worker| {
        let (mut clicks, mut reports) = worker.dataflow(|scope| {
            let settings = Settings::default();
            let (clicks_input, clicks) = scope.new_input();
            let (reports_input, reports) = scope.new_input();
            let (watermarks, _view) = watermarks(reports, &settings, &[]);
            let (refunds, _held) =
                duplicate_detector(clicks, watermarks, &settings, RoutingKey::random(), &DeltaLog::off());
            refunds.inspect(|(refund, epoch, _)| {
                println!(
                    "epoch {epoch}: advertiser {} gets {} back for {} clicks of {} on ad {}",
                    refund.advertiser_id, refund.refund_amount, refund.clicks, refund.device_id, refund.ad_id,
                );
            });
            (clicks_input, reports_input)
        });

        // Epoch 0 says which partitions there are; the data comes with the epochs after it.
        let mut report = PartitionReport {
            topic: Topic::AdEvents,
            partition: 0,
            next_offset: 0,
            greatest: None,
            watermarks: Watermarks::MIN,
            state: PartitionState::Active,
            wakes: Vec::new(),
            first_offset: 0,
            last: None,
            file: None,
            judgements: Vec::new(),
        };
        reports.send(report.clone());
        for (epoch, second) in (1..).zip([0, 1, 2, 400]) {
            clicks.advance_to(epoch);
            reports.advance_to(epoch);
            let time = EventTime(second * 1000);
            clicks.send(PaidClick { group: click_group(), time });
            report.greatest = Some(time);
            reports.send(report.clone());
        }
        // The third click moved no watermark past its window; the one at 400 s did. The end closes the rest.
        report.state = PartitionState::Finished;
        reports.send(report);
    });
}

fn click_group() -> ClickGroup {
    ClickGroup {
        advertiser_id: 7,
        campaign_id: Some(70),
        ad_id: AdId::Number(701),
        device_id: "d-1".into(),
        actual_price: Money(25),
    }
}
