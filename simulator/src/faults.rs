//! What goes wrong between a client and the service?
//!
//! Every client has a [`Link`] of its own. On it faults are drawn, as its [`Weather`] says, from a seed; or it can be cut, which
//! is what a crash of the client, or of the network, looks like from the other side.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CallFault {
    /// No connection.
    Refused,
    /// The connection breaks before the service saw the call.
    Reset,
    /// The service does what it is asked, and the connection breaks before the answer.
    AnswerLost,
    /// There is no answer, for ever.
    Silence,
    /// The service does what it is asked, and the answer never comes.
    AnswerSilent,
    /// It is slow.
    Slow(Duration),
    /// The client panics, in the task that makes the call.
    Panic,
    /// The service answers with this error, and does nothing.
    Error {
        /// Its name.
        code: String,
        /// The HTTP status.
        status: u16,
    },
}

/// What happens to a subscription that was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StreamFault {
    /// The connection breaks.
    Reset,
    /// The body ends in good order, which is what a GOAWAY looks like.
    End,
    /// It ends in the middle of a frame.
    Truncated,
    /// A frame has a byte that is wrong.
    Corrupt,
    /// An exception comes.
    Exception(String),
    /// An error comes that is not in the model.
    Error(String),
    /// An event comes of a type that nobody knows.
    Unknown,
    /// Nothing comes any more.
    Silence,
    /// Bytes come in small pieces with long gaps.
    Slow,
    /// It ends before its first event.
    Empty,
    /// Not even the first frame comes.
    NoFirstFrame,
    /// An end of the shard that is none: neither a continuation nor children.
    EndWithoutChildren,
    /// Children beside a continuation, though the shard goes on.
    ChildrenWhileOpen,
    /// No continuation, and a child without parents.
    ChildWithoutParents,
}

/// How much goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weather {
    /// How long a call takes, at least and at most.
    pub latency: (Duration, Duration),
    /// How many of a thousand calls fail in some way.
    pub calls_per_mille: u32,
    /// How many of a thousand subscriptions break before they are due to.
    pub streams_per_mille: u32,
    /// In how many of a thousand calls the client panics.
    pub panics_per_mille: u32,
}

/// What a panic says that was asked for.
pub const PANIC: &str = "a panic that was asked for";

/// What a role's credentials are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RoleCredentials {
    /// They can be used.
    Usable,
    /// The role can't be assumed.
    Denied,
    /// It is assumed too often.
    Throttled,
    /// A line break is in the token.
    Garbled,
    /// What comes is not the answer to the question.
    Odd,
    /// The service that gives them can't be reached.
    OutOfReach,
}

impl Weather {
    /// Nothing goes wrong, and calls take some milliseconds.
    pub const CALM: Self = Self {
        latency: (Duration::from_millis(2), Duration::from_millis(20)),
        calls_per_mille: 0,
        streams_per_mille: 0,
        panics_per_mille: 0,
    };
}

/// A subscription is to break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Break {
    pub(crate) what: StreamFault,
    /// After so many events.
    pub(crate) events: u32,
}

/// The way between one client and the services.
#[derive(Debug, Clone)]
pub struct Link(Arc<Mutex<Core>>);

#[derive(Debug)]
struct Core {
    name: String,
    rng: Rng,
    weather: Weather,
    /// Everything that is sent is lost.
    cut: bool,
    /// The table alone can't be reached.
    table_cut: bool,
    /// The table is slow, and how slow each call is comes from here.
    slow_table: Option<Rng>,
    credentials: RoleCredentials,
    /// Faults to come, before any that is drawn.
    calls: Vec<(String, CallFault)>,
    streams: Vec<StreamFault>,
    faults: u64,
}

impl Link {
    /// The link of a client, with good weather.
    pub fn new(name: impl Into<String>, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Core {
            name: name.into(),
            rng: Rng::with_seed(seed),
            weather: Weather::CALM,
            cut: false,
            table_cut: false,
            slow_table: None,
            credentials: RoleCredentials::Usable,
            calls: Vec::new(),
            streams: Vec::new(),
            faults: 0,
        })))
    }

    fn core(&self) -> std::sync::MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose it is.
    pub fn name(&self) -> String {
        self.core().name.clone()
    }

    /// Changes what goes wrong from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.core().weather = weather;
    }

    /// Loses everything that is sent, from now on or no more.
    pub fn cut(&self, cut: bool) {
        self.core().cut = cut;
    }

    /// Loses what is sent to the table.
    pub fn cut_table(&self, cut: bool) {
        self.core().table_cut = cut;
    }

    /// Makes the table slow, from this seed on, or no more. A call to it takes a moment to arrive, some of them seconds, and
    /// arrives even if the client has given it up; its answer takes up to a second.
    pub fn slow_table(&self, seed: Option<u64>) {
        self.core().slow_table = seed.map(Rng::with_seed);
    }

    /// How much longer than usual a call to the table takes, and then its answer.
    pub(crate) fn table_delays(&self) -> Option<(Duration, Duration)> {
        let mut core = self.core();
        let rng = core.slow_table.as_mut()?;
        let there = if rng.u32(0..4) == 0 { rng.u64(1_000..2_900) } else { rng.u64(20..150) };
        Some((Duration::from_millis(there), Duration::from_millis(rng.u64(50..900))))
    }

    /// Changes what the client gets when it assumes a role, from now on.
    pub fn set_credentials(&self, credentials: RoleCredentials) {
        self.core().credentials = credentials;
    }

    /// What the client gets when it assumes a role.
    pub fn credentials(&self) -> RoleCredentials {
        self.core().credentials
    }

    /// Whether every call gets through, unless one was told to fail.
    pub fn is_well(&self) -> bool {
        let core = self.core();
        !core.cut
            && !core.table_cut
            && core.slow_table.is_none()
            && core.weather.calls_per_mille == 0
            && core.weather.panics_per_mille == 0
            && core.credentials == RoleCredentials::Usable
    }

    /// The next call of this operation meets this fault.
    pub fn next_call(&self, operation: &str, fault: CallFault) {
        self.core().calls.push((operation.to_owned(), fault));
    }

    /// The next subscription that is granted breaks so, after its next event.
    pub fn next_stream(&self, fault: StreamFault) {
        self.core().streams.push(fault);
    }

    /// How many faults there were.
    pub fn faults(&self) -> u64 {
        self.core().faults
    }

    pub(crate) fn is_cut(&self, table: bool) -> bool {
        let core = self.core();
        core.cut || (table && core.table_cut)
    }

    pub(crate) fn latency(&self) -> Duration {
        let mut core = self.core();
        let (least, most) = core.weather.latency;
        let millis = core.rng.u64(least.as_millis() as u64..=most.as_millis().max(least.as_millis()) as u64);
        Duration::from_millis(millis)
    }

    pub(crate) fn call_fault(&self, operation: &str, table: bool) -> Option<CallFault> {
        let mut core = self.core();
        let told = core.calls.iter().position(|(told, _)| told == operation);
        let fault = match told {
            Some(at) => Some(core.calls.remove(at).1),
            None if core.weather.panics_per_mille > 0 && core.rng.u32(0..1000) < core.weather.panics_per_mille => {
                Some(CallFault::Panic)
            }
            None if core.rng.u32(0..1000) < core.weather.calls_per_mille => {
                Some(draw_call(&mut core.rng, operation, table))
            }
            None => None,
        };
        core.faults += u64::from(fault.is_some());
        fault
    }

    pub(crate) fn stream_fault(&self) -> Option<Break> {
        let mut core = self.core();
        let fault = if core.streams.is_empty() {
            let breaks = core.rng.u32(0..1000) < core.weather.streams_per_mille;
            breaks.then(|| Break { what: draw_stream(&mut core.rng), events: core.rng.u32(0..12) })
        } else {
            Some(Break { what: core.streams.remove(0), events: 1 })
        };
        core.faults += u64::from(fault.is_some());
        fault
    }

    /// A number below another, from the link's seed.
    pub(crate) fn draw(&self, below: usize) -> usize {
        self.core().rng.usize(0..below.max(1))
    }
}

fn draw_call(rng: &mut Rng, operation: &str, table: bool) -> CallFault {
    let error = |code: &str, status| CallFault::Error { code: code.to_owned(), status };
    match rng.u32(0..10) {
        0 => CallFault::Refused,
        1 => CallFault::Reset,
        2 => CallFault::AnswerLost,
        3 => CallFault::Silence,
        4 => CallFault::AnswerSilent,
        5 | 6 => CallFault::Slow(Duration::from_millis(rng.u64(200..9_000))),
        7 => error(if table { "InternalServerError" } else { "InternalFailure" }, 500),
        8 if table => error("ProvisionedThroughputExceededException", 400),
        8 => error("LimitExceededException", 400),
        _ if table => error("ThrottlingException", 400),
        _ if operation == "SubscribeToShard" => {
            let codes =
                ["ResourceInUseException", "AccessDeniedException", "KMSThrottlingException", "ExpiredTokenException"];
            error(codes[rng.usize(0..codes.len())], 400)
        }
        _ => error("ServiceUnavailable", 503),
    }
}

fn draw_stream(rng: &mut Rng) -> StreamFault {
    const EXCEPTIONS: [&str; 5] = [
        "InternalFailureException",
        "ResourceInUseException",
        "KMSThrottlingException",
        "KMSInvalidStateException",
        "KMSAccessDeniedException",
    ];
    match rng.u32(0..16) {
        0 | 1 => StreamFault::Reset,
        2 | 3 => StreamFault::End,
        4 => StreamFault::Truncated,
        5 => StreamFault::Corrupt,
        6 | 7 => StreamFault::Exception(EXCEPTIONS[rng.usize(0..EXCEPTIONS.len())].to_owned()),
        8 => StreamFault::Error("InternalError".to_owned()),
        9 => StreamFault::Unknown,
        10 => StreamFault::Silence,
        11 => StreamFault::Slow,
        12 => StreamFault::Empty,
        13 => StreamFault::NoFirstFrame,
        14 => match rng.u32(0..2) {
            0 => StreamFault::EndWithoutChildren,
            _ => StreamFault::ChildWithoutParents,
        },
        _ => StreamFault::ChildrenWhileOpen,
    }
}
