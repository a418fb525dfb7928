//! The calls about consumers.

use serde_json::{Value, json};

use super::request::Request;
use super::stream::{Consumer, Status};
use super::{Kinesis, ServiceError};

type Answer = Result<Value, ServiceError>;

/// The most consumers that may be in creation at a time.
const CREATING: usize = 5;

impl Kinesis {
    pub(super) fn register_consumer(&mut self, request: Request<'_>) -> Answer {
        self.call_limit("RegisterStreamConsumer", "", 5.0)?;
        let stream = request.stream()?;
        let name = request.required("ConsumerName")?;
        let (now, until, most) = (self.now, self.now + self.settings.activation, self.settings.consumers);
        let creating: usize =
            self.streams.values().map(|stream| count(stream.consumers.values(), Status::Creating)).sum();
        let stream = self.stream_mut(stream)?;
        if let Some(there) = stream.consumers.get(name) {
            let status = there.status.name();
            return Err(ServiceError::in_use(format!("Consumer {name} under stream {} is {status}.", stream.name)));
        }
        if creating >= CREATING {
            return Err(ServiceError::limit(format!("{CREATING} consumers are being created already.")));
        }
        if stream.consumers.len() >= most {
            return Err(ServiceError::limit(format!("Stream {} has {most} consumers already.", stream.name)));
        }
        let arn = format!("{}/consumer/{name}:{}", stream.arn, now.millis() / 1000);
        let consumer = Consumer { name: name.to_owned(), arn, created: now, status: Status::Creating, until };
        let answer = json!({ "Consumer": about(&consumer) });
        stream.consumers.insert(name.to_owned(), consumer);
        Ok(answer)
    }

    pub(super) fn describe_consumer(&mut self, request: Request<'_>) -> Answer {
        let (stream, consumer) = self.named_consumer(request)?;
        self.call_limit("DescribeStreamConsumer", &stream, 20.0)?;
        let stream = self.stream(&stream)?;
        let found = &stream.consumers[&consumer];
        let mut description = about(found);
        description["StreamARN"] = json!(stream.arn);
        Ok(json!({ "ConsumerDescription": description }))
    }

    pub(super) fn list_consumers(&mut self, request: Request<'_>) -> Answer {
        let name = request.stream()?;
        self.call_limit("ListStreamConsumers", name, 5.0)?;
        let stream = self.stream(name)?;
        Ok(json!({ "Consumers": stream.consumers.values().map(about).collect::<Vec<_>>() }))
    }

    pub(super) fn deregister_consumer(&mut self, request: Request<'_>) -> Answer {
        self.call_limit("DeregisterStreamConsumer", "", 5.0)?;
        let (name, consumer) = self.named_consumer(request)?;
        let until = self.now + self.settings.deletion;
        let stream = self.stream_mut(&name)?;
        if let Some(found) = stream.consumers.get_mut(&consumer) {
            found.status = Status::Deleting;
            found.until = until;
        }
        self.touch(&name, None);
        Ok(json!({}))
    }

    /// The stream and the name of the consumer that a request refers to.
    fn named_consumer(&self, request: Request<'_>) -> Result<(String, String), ServiceError> {
        if let Some(arn) = request.text("ConsumerARN") {
            let found = self.streams.values().find_map(|stream| Some((stream, stream.consumer_by_arn(arn)?)));
            let found = found.map(|(stream, consumer)| (stream.name.clone(), consumer.name.clone()));
            return found.ok_or_else(|| ServiceError::not_found(format!("Consumer {arn} not found.")));
        }
        let (stream, name) = (request.stream()?, request.required("ConsumerName")?);
        if self.stream(stream)?.consumers.contains_key(name) {
            Ok((stream.to_owned(), name.to_owned()))
        } else {
            Err(ServiceError::not_found(format!("Consumer {name} under stream {stream} not found.")))
        }
    }
}

fn count<'c>(consumers: impl Iterator<Item = &'c Consumer>, status: Status) -> usize {
    consumers.filter(|consumer| consumer.status == status).count()
}

fn about(consumer: &Consumer) -> Value {
    json!({
        "ConsumerName": consumer.name,
        "ConsumerARN": consumer.arn,
        "ConsumerStatus": consumer.status.name(),
        "ConsumerCreationTimestamp": consumer.created.seconds(),
    })
}
