//! What is found, as data for people and programs?
//!
//! This module is pure.

use serde::Serialize;

use crate::policy::Statement;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Subject {
    /// The region and the credentials of a session.
    Credentials,
    /// The account and the ARN that the credentials belong to.
    Identity,
    /// A host that is called.
    Host,
    /// The clock of this machine.
    Clock,
    /// A call that has to be allowed.
    Permission,
    /// A lease table.
    Table,
    /// A checkpoint file.
    CheckpointFile,
    /// A stream.
    Stream,
    /// The key that a stream is encrypted with.
    EncryptionKey,
    /// The shards of a stream.
    Shards,
    /// The consumer that a stream is read with.
    Consumer,
    /// The output of the pipeline.
    Output,
}

impl Subject {
    /// The subject in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Identity => "identity",
            Self::Host => "host",
            Self::Clock => "clock",
            Self::Permission => "permission",
            Self::Table => "table",
            Self::CheckpointFile => "checkpoint file",
            Self::Stream => "stream",
            Self::EncryptionKey => "encryption key",
            Self::Shards => "shards",
            Self::Consumer => "consumer",
            Self::Output => "output",
        }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// There is something to know.
    Note,
    /// It was not tried, because something else failed.
    NotTried,
    /// A run would start, and something is odd; or it would wait.
    Warning,
    /// A run would fail, or go on without what is missing.
    Failure,
}

impl Verdict {
    /// The verdict in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::NotTried => "not tried",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about.
    pub subject: Subject,
    /// Which one of these: a stream, a host, a call and what it is made on.
    pub name: String,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// The IAM statement that is missing, or, in a note, the one that is needed and can't be tried.
    pub statement: Option<Statement>,
}

impl Finding {
    /// A finding without a remedy.
    pub fn new(subject: Subject, name: impl Into<String>, verdict: Verdict, what: impl Into<String>) -> Self {
        Self { subject, name: name.into(), verdict, what: what.into(), remedy: None, statement: None }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// The same with an IAM statement.
    #[must_use]
    pub(crate) fn statement(self, statement: Option<Statement>) -> Self {
        Self { statement, ..self }
    }

    /// Something that was not tried, and what it needs.
    pub(crate) fn not_tried(subject: Subject, name: impl Into<String>, needs: &str) -> Self {
        Self::new(subject, name, Verdict::NotTried, format!("needs {needs}"))
    }
}

/// Collects findings, and tells each as soon as it is there.
pub(super) struct Telling<'a> {
    pub(super) found: Vec<Finding>,
    tell: &'a mut (dyn FnMut(&Finding) + Send),
}

impl<'a> Telling<'a> {
    pub(super) fn new(tell: &'a mut (dyn FnMut(&Finding) + Send)) -> Self {
        Self { found: Vec::new(), tell }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        (self.tell)(&finding);
        self.found.push(finding);
    }

    pub(super) fn add_all(&mut self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.add(finding));
    }
}
