//! How are messages, dispositions, errors and statuses converted between the two sides?

use mq_bridge::CanonicalMessage;
use mq_bridge::anyhow;
use mq_bridge::traits::{BatchCommitFunc, EndpointStatus, MessageDisposition};
use pipeline_plugin_api::{Input, Message, Receipt, State, Status, Verdict, Verdicts, causes};
use serde_json::json;
use std::sync::Arc;

use crate::metadata::Metadata;

/// Converts a message, with this part of its metadata. The payload is shared, not copied.
///
/// The id is a fresh one: only the input knows what identifies a message across redeliveries, and states it in the
/// metadata.
pub(crate) fn message(message: Message, metadata: &Metadata) -> CanonicalMessage {
    let metadata = metadata.of(&message);
    let mut out = CanonicalMessage::new_bytes(message.into_payload(), None);
    out.metadata = metadata;
    out
}

/// The function that mq-bridge calls once it knows the outcome of a batch. If it is dropped without a call, the receipt
/// nacks the batch.
pub(crate) fn commit(input: Arc<dyn Input>, receipt: Receipt) -> BatchCommitFunc {
    Box::new(move |dispositions| {
        Box::pin(async move {
            let verdicts = verdicts(receipt.expected(), &dispositions);
            input.ack(receipt, verdicts).await?;
            Ok(())
        })
    })
}

/// The verdicts on a batch of `expected` messages. The whole batch is usually acked, and then needs no list. mq-bridge gives no
/// reason for a nack.
fn verdicts(expected: usize, dispositions: &[MessageDisposition]) -> Verdicts {
    let verdict = |disposition: &MessageDisposition| match disposition {
        // An input takes no replies; a reply means that the message was processed.
        MessageDisposition::Ack | MessageDisposition::Reply(_) => Verdict::Ack,
        MessageDisposition::Nack => Verdict::NACK,
    };
    // A list of the wrong length is never shortened to "all": it must be seen to be wrong.
    if dispositions.len() == expected && dispositions.iter().all(|disposition| verdict(disposition).is_ack()) {
        return Verdicts::ACK;
    }
    Verdicts::Each(dispositions.iter().map(verdict).collect())
}

/// An error in the form that mq-bridge carries: its text, with its causes.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    anyhow::Error::msg(causes(error))
}

/// The status of the input, in mq-bridge's terms.
pub(crate) fn status(status: Status) -> EndpointStatus {
    EndpointStatus {
        healthy: matches!(status.state, State::Connected | State::Ended),
        target: status.target,
        pending: usize::try_from(status.pending_messages).ok(),
        capacity: status.capacity_messages.and_then(|capacity| usize::try_from(capacity).ok()),
        error: status.reason,
        details: json!({
            "state": format!("{:?}", status.state).to_lowercase(),
            "pending_age_seconds": status.pending_age.map(|age| age.as_secs_f64()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipeline_plugin_api::Settle;
    use std::sync::Mutex;

    #[test]
    fn payload_is_the_same_memory() {
        let original = Message::with_pairs(vec![1_u8; 64], [("kinesis_shard", "s-1")]);
        let at = original.payload().as_ptr();
        let translated = message(original, &Metadata::All);
        assert_eq!(translated.payload.as_ptr(), at);
        assert_eq!(translated.metadata.get("kinesis_shard").map(String::as_str), Some("s-1"));
    }

    #[test]
    fn age_of_what_is_pending_is_passed_on() {
        let mut pending = Status::new(State::Connected, "orders");
        assert!(status(pending.clone()).details["pending_age_seconds"].is_null());
        pending.pending_age = Some(std::time::Duration::from_millis(1500));
        assert_eq!(status(pending).details["pending_age_seconds"], 1.5);
    }

    #[test]
    fn replies_count_as_acks() {
        let all = [
            MessageDisposition::Ack,
            MessageDisposition::Nack,
            MessageDisposition::Reply(CanonicalMessage::from("thanks")),
        ];
        assert_eq!(verdicts(3, &all), Verdicts::Each(vec![Verdict::Ack, Verdict::NACK, Verdict::Ack]));
    }

    #[test]
    fn list_of_acks_is_shortened_only_if_its_length_is_right() {
        let all = [MessageDisposition::Ack, MessageDisposition::Ack];
        assert_eq!(verdicts(2, &all), Verdicts::ACK);
        assert_eq!(verdicts(3, &all), Verdicts::Each(vec![Verdict::Ack, Verdict::Ack]));
    }

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<Verdicts>>>);

    impl Settle for Heard {
        fn settle(self: Box<Self>, verdicts: Verdicts) {
            self.0.lock().unwrap().push(verdicts);
        }
    }

    #[tokio::test]
    async fn too_few_dispositions_nack_the_batch_and_say_so() {
        let heard = Heard::default();
        let input: Arc<dyn Input> = Arc::new(crate::consumer::tests::Scripted::default());
        let commit = commit(input, Receipt::new(2, heard.clone()));
        let error = commit(vec![MessageDisposition::Ack]).await.unwrap_err();
        assert!(error.to_string().contains("1 verdicts for a batch of 2"), "{error}");
        assert_eq!(*heard.0.lock().unwrap(), [Verdicts::NACK]);
    }

    #[tokio::test]
    async fn commit_that_is_never_called_nacks() {
        let heard = Heard::default();
        let input: Arc<dyn Input> = Arc::new(crate::consumer::tests::Scripted::default());
        drop(commit(input, Receipt::new(2, heard.clone())));
        assert_eq!(*heard.0.lock().unwrap(), [Verdicts::NACK]);
    }
}
