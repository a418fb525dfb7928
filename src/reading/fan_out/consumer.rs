//! Which consumer is a stream read with?
//!
//! All processes of one input share one consumer. It is found by its name, or registered if there is none. A consumer
//! that was deleted and recreated has a new ARN: a subscription that notices asks for a refresh, and all
//! subscriptions of the stream continue with the new ARN.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::aws::{ConsumerDescription, ConsumerStatus, Service};
use crate::model::Stream;
use crate::retry::backoff::Backoff;
use crate::retry::{self, Control, Fault, Origin};
use crate::sync::{Mutex, lock};
use crate::telemetry;

/// The first and the longest delay between two looks at the status of a consumer that is being created.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const LATEST_LOOK: Duration = Duration::from_secs(5);
/// A consumer that was refreshed within this time is not looked up again, however many shards ask.
const REFRESHED: Duration = Duration::from_secs(5);

/// How the consumer of a stream is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConsumerSpec {
    /// A consumer of this name; it is registered if there is none.
    Named(String),
    /// An existing consumer that this process never registers.
    Arn(String),
}

/// The consumer of one stream.
#[derive(Debug)]
pub(crate) struct Consumer {
    service: Arc<dyn Service>,
    stream: Stream,
    spec: ConsumerSpec,
    activation: Duration,
    state: Mutex<State>,
    /// Held during a refresh, so that only one runs at a time.
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    arn: String,
    /// Whether this process registered the consumer: only then may it be removed.
    registered_here: bool,
    refreshed: Instant,
}

/// A consumer error that waiting does not fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The service refused a request.
    #[error("stream {stream}: consumer {consumer}: {fault}; {advice}")]
    Refused {
        /// The stream.
        stream: String,
        /// The consumer's name or ARN.
        consumer: String,
        /// The fault that the service returned.
        fault: Fault,
        /// The advice for the user.
        advice: &'static str,
    },
    /// The consumer did not become active in time.
    #[error("stream {stream}: consumer {consumer} was not ACTIVE within {waited:?}; {last}")]
    NotActive {
        /// The stream.
        stream: String,
        /// The consumer's name or ARN.
        consumer: String,
        /// `enhanced_fan_out.consumer_activation_timeout`.
        waited: Duration,
        /// The last state that was seen.
        last: String,
    },
}

impl Consumer {
    /// Finds the consumer, registers it if there is none, and waits until it is active.
    ///
    /// `registering` bounds how many consumers are created at once: the service allows five.
    ///
    /// # Errors
    ///
    /// An error is returned when the service refuses for good, or when the consumer is not active within
    /// `activation`.
    pub(crate) async fn open(
        service: Arc<dyn Service>,
        stream: Stream,
        spec: ConsumerSpec,
        activation: Duration,
        registering: &Semaphore,
    ) -> Result<Self, ConsumerError> {
        // The semaphore is never closed, so this does not fail.
        let _turn = registering.acquire().await;
        let mut opening =
            Opening { service: &*service, stream: &stream, spec: &spec, registered_here: false, last: None };
        let arn = opening.within(activation).await?;
        let state = State { arn, registered_here: opening.registered_here, refreshed: Instant::now() };
        Ok(Self {
            service,
            stream,
            spec,
            activation,
            state: Mutex::new(state),
            refreshing: tokio::sync::Mutex::new(()),
        })
    }

    /// The ARN that subscriptions are made with.
    pub(crate) fn arn(&self) -> String {
        lock(&self.state).arn.clone()
    }

    /// The name or ARN of the consumer, as it was configured.
    pub(crate) fn label(&self) -> &str {
        self.spec.label()
    }

    /// Looks the consumer up again, and registers it again if that is allowed. Many callers may ask at once: one
    /// request serves them all.
    ///
    /// This is cancel safe.
    pub(crate) async fn refresh(&self) -> Result<(), ConsumerError> {
        let asked = Instant::now();
        let _turn = self.refreshing.lock().await;
        let refreshed = lock(&self.state).refreshed;
        if refreshed > asked || asked.duration_since(refreshed) < REFRESHED {
            return Ok(());
        }
        let mut opening = Opening {
            service: &*self.service,
            stream: &self.stream,
            spec: &self.spec,
            registered_here: false,
            last: None,
        };
        let outcome = opening.within(self.activation).await;
        let mut state = lock(&self.state);
        state.registered_here |= opening.registered_here;
        state.refreshed = Instant::now();
        let arn = outcome?;
        if state.arn != arn {
            telemetry::consumer_changed(&self.stream, &arn);
            state.arn = arn;
        }
        Ok(())
    }

    /// The stream that the consumer reads.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Removes the consumer if this process registered it.
    pub(crate) async fn deregister(&self) {
        let (arn, ours) = {
            let state = lock(&self.state);
            (state.arn.clone(), state.registered_here)
        };
        if ours && let Err(fault) = self.service.deregister_consumer(&arn).await {
            telemetry::deregister_failed(&self.stream, &fault);
        }
    }
}

impl ConsumerSpec {
    fn label(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Arn(arn) => arn,
        }
    }
}

/// One attempt to get an active consumer.
struct Opening<'a> {
    service: &'a dyn Service,
    stream: &'a Stream,
    spec: &'a ConsumerSpec,
    registered_here: bool,
    /// The last state that was seen, for the error of a consumer that did not become active in time.
    last: Option<String>,
}

impl Opening<'_> {
    async fn within(&mut self, activation: Duration) -> Result<String, ConsumerError> {
        match timeout(activation, self.until_active()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConsumerError::NotActive {
                stream: self.stream.to_string(),
                consumer: self.spec.label().into(),
                waited: activation,
                last: self.last.take().unwrap_or_else(|| "the service did not answer".into()),
            }),
        }
    }

    async fn until_active(&mut self) -> Result<String, ConsumerError> {
        let mut backoff = Backoff::new(FIRST_LOOK, LATEST_LOOK);
        let mut waiting = telemetry::Waiting::new();
        loop {
            if let Some(last) = &self.last {
                waiting.log("the consumer", self.spec.label(), last);
            }
            match self.describe().await {
                Ok(ConsumerDescription { arn, status: ConsumerStatus::Active }) => return Ok(arn),
                Ok(other) => self.last = Some(format!("it is {:?}", other.status)),
                Err(fault) => match retry::control(&fault) {
                    Control::NotFound => {
                        if self.register().await? {
                            continue;
                        }
                    }
                    Control::Fatal => return Err(self.refused(fault, "check the permissions and the region")),
                    Control::InUse | Control::Retry => self.last = Some(fault.to_string()),
                },
            }
            sleep(backoff.next_delay(fastrand::f64())).await;
        }
    }

    async fn describe(&self) -> Result<ConsumerDescription, Fault> {
        match self.spec {
            ConsumerSpec::Named(name) => self.service.describe_consumer(self.stream, name).await,
            ConsumerSpec::Arn(arn) => self.service.describe_consumer_arn(arn).await,
        }
    }

    /// Registers the consumer; returns true if its status should be checked at once.
    async fn register(&mut self) -> Result<bool, ConsumerError> {
        let ConsumerSpec::Named(name) = self.spec else {
            let fault = Fault {
                origin: Origin::Call,
                code: "ResourceNotFoundException".into(),
                message: "there is no such consumer".into(),
            };
            return Err(self.refused(fault, "set enhanced_fan_out.consumer_name to have one made"));
        };
        telemetry::registering(self.stream, name);
        match self.service.register_consumer(self.stream, name).await {
            Ok(made) => {
                self.registered_here = true;
                self.last = Some(format!("it is {:?}", made.status));
                Ok(made.status == ConsumerStatus::Active)
            }
            Err(fault) => match retry::control(&fault) {
                Control::Fatal => {
                    Err(self.refused(fault, "allow kinesis:RegisterStreamConsumer, or name an existing consumer"))
                }
                Control::NotFound => Err(self.refused(fault, "check the stream's name and the region")),
                // Another process registered it first, so it exists now.
                Control::InUse => Ok(true),
                // Too many registrations at once, or too many consumers of the stream: one may be removed before the
                // time limit.
                Control::Retry => {
                    self.last = Some(fault.to_string());
                    Ok(false)
                }
            },
        }
    }

    fn refused(&self, fault: Fault, advice: &'static str) -> ConsumerError {
        ConsumerError::Refused { stream: self.stream.to_string(), consumer: self.spec.label().into(), fault, advice }
    }
}
