//! Records that workers write to Kafka.

use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::connect::Fault;
use crate::connect::kafka::{Deliveries, KafkaConfig};

/// How long the brokers may take.
const DELIVERY: Duration = Duration::from_secs(30);

/// A producer that is opened when it is needed.
pub struct Publisher {
    config: KafkaConfig,
    /// None after a failure: what is still on its way is given up with its producer.
    producer: Option<BaseProducer<Deliveries>>,
}

impl Publisher {
    /// Nothing is opened yet.
    pub fn new(config: KafkaConfig) -> Publisher {
        Publisher { config, producer: None }
    }

    /// Appends records, key and value, to a topic by its name without the prefix, and waits until the brokers
    /// have them. If it fails, some may be there.
    ///
    /// # Errors
    /// They can't be delivered.
    pub fn publish(
        &mut self,
        topic: &str,
        records: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), Fault> {
        let topic = self.config.topic(topic);
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => self.open()?,
        };
        for (key, value) in records {
            let record = BaseRecord::to(&topic).key(&key).payload(&value);
            producer.send(record).map_err(|(error, _)| self.config.fault(error))?;
        }
        // A record that can't be delivered fails by itself after this long.
        producer.flush(2 * DELIVERY).map_err(|error| self.config.fault(error))?;
        if let Some(error) = producer.context().failure() {
            return Err(self.config.fault(error.clone()));
        }
        self.producer = Some(producer);
        Ok(())
    }

    fn open(&self) -> Result<BaseProducer<Deliveries>, Fault> {
        let mut client = self.config.producer_with(&[]);
        client.set("enable.idempotence", "true").set("acks", "all");
        client.set("message.timeout.ms", DELIVERY.as_millis().to_string());
        client.create_with_context(Deliveries::default()).map_err(|error| self.config.fault(error))
    }
}
