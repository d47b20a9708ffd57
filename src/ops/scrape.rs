//! What every collector needs to tell its metrics.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;

use super::names::{Kind, Metric};

/// The values of a metric's labels, in their order.
pub type Labels = Vec<String>;

/// One scrape of one collector.
pub struct Scrape<'a>(DescriptorEncoder<'a>);

impl<'a> Scrape<'a> {
    /// A scrape into `encoder`.
    pub fn new(encoder: DescriptorEncoder<'a>) -> Scrape<'a> {
        Scrape(encoder)
    }

    /// Tells a counter or a gauge: a sample for each set of labels. Without samples it is left out.
    ///
    /// # Errors
    /// The text can't be written.
    pub fn samples(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        match metric.kind {
            Kind::Counter => {
                self.each(metric, samples.into_iter().map(|(at, value)| (at, ConstCounter::new(value))))
            }
            _ => self.each(metric, samples.into_iter().map(|(at, value)| (at, ConstGauge::new(value)))),
        }
    }

    /// Tells one sample, if there is a value.
    ///
    /// # Errors
    /// The text can't be written.
    pub fn sample(&mut self, metric: &Metric, value: impl Into<Option<f64>>) -> fmt::Result {
        self.samples(metric, value.into().map(|value| (Labels::new(), value)))
    }

    /// Tells a histogram.
    ///
    /// # Errors
    /// The text can't be written.
    pub fn histograms(
        &mut self,
        metric: &Metric,
        each: impl IntoIterator<Item = (Labels, Histogram)>,
    ) -> fmt::Result {
        self.each(metric, each)
    }

    /// Tells what is in the labels.
    ///
    /// # Errors
    /// The text can't be written.
    pub fn info(&mut self, metric: &Metric, values: Labels) -> fmt::Result {
        let labels: Vec<_> = metric.labels.iter().copied().zip(values).collect();
        self.0.encode_descriptor(metric.name, metric.help, None, MetricType::Info)?.encode_info(&labels)
    }

    fn each<M: EncodeMetric>(
        &mut self,
        metric: &Metric,
        each: impl IntoIterator<Item = (Labels, M)>,
    ) -> fmt::Result {
        let mut each = each.into_iter().peekable();
        let Some((_, first)) = each.peek() else { return Ok(()) };
        let kind = first.metric_type();
        let mut family = self.0.encode_descriptor(metric.name, metric.help, None, kind)?;
        for (values, value) in each {
            if metric.labels.is_empty() {
                value.encode(family)?;
                return Ok(());
            }
            let labels: Vec<_> = metric.labels.iter().copied().zip(values).collect();
            value.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
