//! What goes wrong between a client and the service?
//!
//! Every client has a [`Link`] of its own. Faults on it are drawn from a seed, as its [`Weather`] says. A link can also
//! be cut, which looks to the other side like a crash of the client or of the network.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// A fault of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CallFault {
    /// There is no connection.
    Refused,
    /// The connection breaks before the service saw the call.
    Reset,
    /// The service carries out the call, and the connection breaks before the answer.
    AnswerLost,
    /// The call is lost, and there is no answer.
    Silence,
    /// The service carries out the call, and the answer never comes.
    AnswerSilent,
    /// The call is slow.
    Slow(Duration),
    /// The client panics, in the task that makes the call.
    Panic,
    /// The service answers with this error, and does not carry out the call.
    Error {
        /// The name of the error.
        code: String,
        /// The HTTP status.
        status: u16,
    },
}

/// The reason why a call got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// There was no connection.
    Refused,
    /// The connection broke.
    Reset,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Reset => "connection reset by peer",
        })
    }
}

impl std::error::Error for NoAnswer {}

/// A fault of a subscription that was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StreamFault {
    /// The connection breaks.
    Reset,
    /// The body ends properly, as after a GOAWAY.
    End,
    /// The body ends in the middle of a frame.
    Truncated,
    /// One byte of a frame is wrong.
    Corrupt,
    /// An exception is sent.
    Exception(String),
    /// An error is sent that is not in the service's model.
    Error(String),
    /// An event of an unknown type is sent.
    Unknown,
    /// Nothing is sent any more.
    Silence,
    /// Bytes are sent in small pieces with long gaps.
    Slow,
    /// The body ends before its first event.
    Empty,
    /// Not even the first frame is sent.
    NoFirstFrame,
    /// An invalid shard end is sent, with neither a continuation nor children.
    EndWithoutChildren,
    /// Children are sent beside a continuation, though the shard continues.
    ChildrenWhileOpen,
    /// An end without a continuation is sent, with a child that has no parents.
    ChildWithoutParents,
}

/// A fault of an answer of GetRecords.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AnswerFault {
    /// It is empty, and says that there is more.
    Gap,
    /// The connection breaks in the middle.
    Reset,
    /// Its rest never comes.
    Silence,
    /// It names neither a next iterator nor children.
    EndWithoutChildren,
    /// It names children beside the next iterator, though the shard continues.
    ChildrenWhileOpen,
    /// It names no next iterator, and a child that has no parents.
    ChildWithoutParents,
}

/// How often calls and subscriptions fail, and how slow calls are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weather {
    /// The least and the longest time that a call takes.
    pub latency: (Duration, Duration),
    /// The number of calls in a thousand that fail in some way.
    pub calls_per_mille: u32,
    /// The number of subscriptions in a thousand that break before they end, and of answers of GetRecords in ten
    /// thousand that are wrong or break.
    pub streams_per_mille: u32,
    /// The number of calls in a thousand in which the client panics.
    pub panics_per_mille: u32,
}

/// The message of a panic that a fault causes.
pub const PANIC: &str = "a panic injected by the simulator";

/// The state of a role's credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RoleCredentials {
    /// The credentials can be used.
    Usable,
    /// The role can't be assumed.
    Denied,
    /// The role is assumed too often.
    Throttled,
    /// The token contains a line break.
    Garbled,
    /// The answer is not one to the question.
    Odd,
    /// The service that issues the credentials can't be reached.
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

/// A subscription that breaks, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Break {
    pub(crate) what: StreamFault,
    /// The number of events before the subscription breaks.
    pub(crate) events: u32,
}

/// The connection between one client and the services.
#[derive(Debug, Clone)]
pub struct Link(Arc<Mutex<Core>>);

#[derive(Debug)]
struct Core {
    name: String,
    rng: Rng,
    weather: Weather,
    /// Whether everything that is sent is lost.
    cut: bool,
    /// Whether the table alone can't be reached.
    table_cut: bool,
    /// Whether calls wait for the name of their host.
    hangs: bool,
    /// The generator of the delays of calls to the table; `None` while the table is not slow.
    slow_table: Option<Rng>,
    credentials: RoleCredentials,
    /// The chosen faults of coming calls. They precede any that is drawn.
    calls: Vec<(String, CallFault)>,
    streams: Vec<StreamFault>,
    faults: u64,
}

impl Link {
    /// A link without faults, with this name.
    pub fn new(name: impl Into<String>, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Core {
            name: name.into(),
            rng: Rng::with_seed(seed),
            weather: Weather::CALM,
            cut: false,
            table_cut: false,
            hangs: false,
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

    /// The name of the client.
    pub fn name(&self) -> String {
        self.core().name.clone()
    }

    /// Changes which faults are drawn from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.core().weather = weather;
    }

    /// Starts or stops losing everything that is sent.
    pub fn cut(&self, cut: bool) {
        self.core().cut = cut;
    }

    /// Starts or stops losing everything that is sent to the table.
    pub fn cut_table(&self, cut: bool) {
        self.core().table_cut = cut;
    }

    /// Makes calls wait for the name of their host, as for a resolver that does not answer, or lets them go on.
    pub fn hang(&self, hangs: bool) {
        self.core().hangs = hangs;
    }

    pub(crate) fn hangs(&self) -> bool {
        self.core().hangs
    }

    /// Makes the table slow, from this seed on, or fast again. A call to it takes a moment to arrive, some of them
    /// seconds, and arrives even if the client has given it up; its answer takes up to a second.
    pub fn slow_table(&self, seed: Option<u64>) {
        self.core().slow_table = seed.map(Rng::with_seed);
    }

    /// The additional delays of a call to the table and of its answer.
    pub(crate) fn table_delays(&self) -> Option<(Duration, Duration)> {
        let mut core = self.core();
        let rng = core.slow_table.as_mut()?;
        let there = if rng.u32(0..4) == 0 { rng.u64(1_000..2_900) } else { rng.u64(20..150) };
        Some((Duration::from_millis(there), Duration::from_millis(rng.u64(50..900))))
    }

    /// Changes what the client gets from now on when it assumes a role.
    pub fn set_credentials(&self, credentials: RoleCredentials) {
        self.core().credentials = credentials;
    }

    /// What the client gets when it assumes a role.
    pub fn credentials(&self) -> RoleCredentials {
        self.core().credentials
    }

    /// Whether every call gets through, except for those with a chosen fault.
    pub fn is_healthy(&self) -> bool {
        let core = self.core();
        !core.cut
            && !core.table_cut
            && !core.hangs
            && core.slow_table.is_none()
            && core.weather.calls_per_mille == 0
            && core.weather.panics_per_mille == 0
            && core.credentials == RoleCredentials::Usable
    }

    /// Chooses a fault for the next call of this operation.
    pub fn next_call(&self, operation: &str, fault: CallFault) {
        self.core().calls.push((operation.to_owned(), fault));
    }

    /// Chooses a fault for the next subscription that is granted, after its next event.
    pub fn next_stream(&self, fault: StreamFault) {
        self.core().streams.push(fault);
    }

    /// The number of faults so far.
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
        let chosen = core.calls.iter().position(|(chosen, _)| chosen == operation);
        let fault = match chosen {
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

    /// Draws the fault of an answer of GetRecords. One of ten times as many answers as subscriptions has one.
    pub(crate) fn answer_fault(&self) -> Option<AnswerFault> {
        let mut core = self.core();
        if core.rng.u32(0..10_000) >= core.weather.streams_per_mille {
            return None;
        }
        core.faults += 1;
        Some(match core.rng.u32(0..8) {
            0..3 => AnswerFault::Gap,
            3 => AnswerFault::Reset,
            4 => AnswerFault::Silence,
            5 => AnswerFault::EndWithoutChildren,
            6 => AnswerFault::ChildrenWhileOpen,
            _ => AnswerFault::ChildWithoutParents,
        })
    }

    /// A number below `below`, from the link's seed.
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
        _ if operation == "GetRecords" => {
            let codes = [
                "ProvisionedThroughputExceededException",
                "ExpiredIteratorException",
                "KMSThrottlingException",
                "KMSDisabledException",
                "InvalidArgumentException",
            ];
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
