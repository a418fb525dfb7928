//! What do an answer, an error or a state mean for a run?
//!
//! This module is pure.

use std::io;
use std::path::Path;

use super::finding::{Finding, Subject, Verdict};
use crate::aws::sdk::Summary;
use crate::policy::Statement;
use crate::retry::{self, Fault, Origin, Trial};

/// How many consumers a stream may have, unless the account is in the On-demand Advantage mode.
const CONSUMERS: i32 = 20;
/// By how much the clock may differ from the service's.
const SKEW: u64 = 10_000;
/// By how much it may differ before the service refuses signatures.
const REFUSED_SKEW: u64 = 300_000;

/// What a trial of a call says of its permission.
pub(super) fn permission(
    action: &str,
    on: &str,
    tried: Result<(), &Fault>,
    statement: impl FnOnce() -> Option<Statement>,
) -> Finding {
    let name = format!("{action} on {on}");
    let finding = |verdict, what: String| Finding::new(Subject::Permission, name.clone(), verdict, what);
    let Err(fault) = tried else { return finding(Verdict::Ok, "allowed".into()) };
    match retry::trial(fault) {
        Trial::Allowed => finding(Verdict::Ok, "allowed".into()),
        Trial::Denied => finding(Verdict::Failure, fault.to_string())
            .remedy("add the statement to the policy of these credentials")
            .statement(statement()),
        Trial::BadCredentials => Finding::not_tried(Subject::Permission, name, ACCEPTED),
        // The host's own finding says why there is none.
        Trial::Unanswered if fault.origin == Origin::Wire => {
            Finding::not_tried(Subject::Permission, name, "an answer of the host")
        }
        Trial::Unanswered => {
            Finding::not_tried(Subject::Permission, name, &format!("a call that can be made ({fault})"))
        }
        Trial::Unclear => {
            finding(Verdict::Warning, format!("not known: {fault}")).remedy("try again; a run would try again, too")
        }
    }
}

/// What else needs credentials that are refused.
pub(super) const ACCEPTED: &str = "credentials that are accepted";

/// Says why credentials are not accepted, if that is what a fault says.
pub(super) fn refused_credentials(whose: &str, fault: &Fault) -> Option<Finding> {
    if retry::trial(fault) != Trial::BadCredentials {
        return None;
    }
    let code = fault.code.as_str();
    let is_signature = code.contains("Signature");
    // The service's message about a signature may quote the request, and a token with it.
    let what = if is_signature { format!("not accepted: {code}") } else { format!("not accepted: {fault}") };
    let remedy = if is_signature {
        "check the secret access key, and the clock of this machine"
    } else if code.contains("Expired") {
        "renew them"
    } else {
        "check that the key still exists, and that it belongs to the partition of the region"
    };
    Some(Finding::new(Subject::Credentials, whose, Verdict::Failure, what).remedy(remedy))
}

/// What to do about a host that doesn't answer.
pub(super) fn unreachable(cause: &str, is_unknown: bool) -> &'static str {
    let says = |parts: &[&str]| parts.iter().any(|part| cause.contains(part));
    if is_unknown {
        "correct `region` or `endpoint` if the name is wrong; otherwise look at the resolver of this machine"
    } else if says(&["UnknownIssuer"]) {
        "if a proxy opens TLS, or the server has a certificate of its own, name the certificate to trust in AWS_CA_BUNDLE"
    } else if says(&["not valid for name", "NotValidForName"]) {
        "the certificate belongs to another host: correct `endpoint`, or look for a proxy in between"
    } else if says(&["certificate expired", "certificate not valid yet", "Expired", "NotValidYet"]) {
        "have the certificate renewed, or set the clock of this machine"
    } else {
        "let this machine reach it: routes, security groups, VPC endpoints, HTTPS_PROXY and NO_PROXY"
    }
}

/// What the difference between the clocks means: positive if the service's is ahead.
pub(super) fn clock(skew_millis: i64) -> Finding {
    let off = skew_millis.unsigned_abs();
    let seconds = off.div_ceil(1000);
    let which = if skew_millis > 0 { "behind" } else { "ahead of" };
    let finding = |verdict, what| Finding::new(Subject::Clock, "this machine", verdict, what);
    if off <= SKEW {
        return finding(Verdict::Ok, "that of the service, within 10 s".to_owned());
    }
    let what = format!("{seconds} s {which} that of the service");
    let costs = if off < REFUSED_SKEW {
        "ages of records and lag are wrong by as much"
    } else {
        "ages of records and lag are wrong by as much, and each first call of a client is refused and made again"
    };
    finding(Verdict::Warning, what).remedy(format!("set the clock (NTP): {costs}"))
}

/// What the status of a stream means.
pub(super) fn stream(summary: &Summary) -> Finding {
    let (arn, status) = (summary.stream.arn(), summary.status.as_str());
    let finding = |verdict, what| Finding::new(Subject::Stream, arn, verdict, what);
    match status {
        "ACTIVE" => finding(Verdict::Ok, status.to_owned()),
        "UPDATING" => finding(Verdict::Ok, format!("{status}; it can be read meanwhile")),
        "DELETING" => {
            finding(Verdict::Failure, format!("it is {status}")).remedy("correct `streams`, or make it again")
        }
        _ => finding(Verdict::Warning, format!("it is {status}")).remedy("a run would wait until it is ACTIVE"),
    }
}

/// What the key of a stream needs; `None` for a stream without one.
pub(super) fn encryption_key(summary: &Summary) -> Option<Finding> {
    let key = summary.key.as_deref()?;
    let (stream, partition) = (summary.stream.name(), summary.stream.arn().split(':').nth(1).unwrap_or("aws"));
    let is_aws_owned = key == "alias/aws/kinesis" || key.ends_with(":alias/aws/kinesis");
    let finding =
        |verdict, what: String| Finding::new(Subject::EncryptionKey, format!("{key} of {stream}"), verdict, what);
    if is_aws_owned {
        return Some(finding(Verdict::Ok, "AWS's own, for which no permission is needed".into()));
    }
    let mut parts = summary.stream.arn().split(':').skip(3);
    let (region, account) = (parts.next().unwrap_or("*"), parts.next().unwrap_or("*"));
    let resource = match key {
        arn if arn.starts_with("arn:") && !arn.contains(":alias/") => arn.to_owned(),
        // A policy names keys by id, never by alias.
        alias if alias.contains("alias/") => format!("arn:{partition}:kms:{region}:{account}:key/*"),
        id => format!("arn:{partition}:kms:{region}:{account}:key/{id}"),
    };
    let statement =
        Statement { sid: "EncryptionKey", effect: "Allow", action: vec!["kms:Decrypt"], resource: vec![resource] };
    Some(
        finding(Verdict::Note, "a key of your own: kms:Decrypt is needed, and can't be tried without reading".into())
            .statement(Some(statement)),
    )
}

/// What it means that a consumer doesn't exist, and has to be registered.
pub(super) fn absent_consumer(name: &str, consumers: Option<i32>) -> Finding {
    let finding = |verdict, what: String| Finding::new(Subject::Consumer, name, verdict, what);
    match consumers {
        Some(many) if many >= CONSUMERS => finding(
            Verdict::Failure,
            format!("not registered, and the stream has {many} consumers; it may have {CONSUMERS}, or 50 with On-demand Advantage"),
        )
        .remedy("deregister one that is not used, or name one that exists in `enhanced_fan_out.consumer_name`"),
        Some(many) => finding(Verdict::Note, format!("not registered; a run registers it. The stream has {many} of {CONSUMERS} consumers")),
        None => finding(Verdict::Note, "not registered; a run registers it".into()),
    }
}

/// Why a file can't be made or written, and what to do about it.
pub(super) fn unwritable(path: &Path, error: &io::Error) -> (String, &'static str) {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "make its folder, or correct the path",
        io::ErrorKind::PermissionDenied => "let this process write there, or choose another path",
        io::ErrorKind::ReadOnlyFilesystem => "the disk is read-only: mount it for writing, or choose another path",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on the disk, or choose another path",
        io::ErrorKind::IsADirectory => "it is a folder: name a file in it",
        _ => "choose another path",
    };
    (format!("{} can't be written: {error}", path.display()), remedy)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
    use tokio_rustls::rustls::{CertificateError, Error as TlsError};

    use super::*;
    use crate::model::Stream;

    fn fault(code: &str) -> Fault {
        Fault { origin: Origin::Call, code: code.into(), message: "said by the service".into() }
    }

    fn statement() -> Statement {
        let action = vec!["kinesis:ListShards"];
        Statement { sid: "Streams", effect: "Allow", action, resource: vec!["arn".into()] }
    }

    #[test]
    fn permission_is_missing_only_if_the_service_says_so() {
        let of = |fault: &Fault| permission("kinesis:ListShards", "arn", Err(fault), || Some(statement()));
        for code in ["ResourceNotFoundException", "ConditionalCheckFailedException", "ValidationException"] {
            assert_eq!(of(&fault(code)).verdict, Verdict::Ok, "{code}");
        }
        let denied = of(&fault("AccessDeniedException"));
        assert_eq!((denied.verdict, denied.statement), (Verdict::Failure, Some(statement())));
        assert!(denied.what.contains("said by the service"), "{}", denied.what);
        for (fault, verdict) in [
            (fault("ThrottlingException"), Verdict::Warning),
            (fault("ExpiredTokenException"), Verdict::NotTried),
            (Fault::wire("Connection", "refused"), Verdict::NotTried),
        ] {
            let found = of(&fault);
            assert_eq!((found.verdict, found.statement), (verdict, None), "{fault}");
        }
    }

    #[test]
    fn message_about_a_signature_is_not_shown() {
        let mut wrong = fault("InvalidSignatureException");
        wrong.message = "the canonical string is x-amz-security-token:SECRET".into();
        let found = refused_credentials("streams", &wrong).unwrap();
        assert!(!format!("{found:?}").contains("SECRET") && found.remedy.unwrap().contains("clock"));
        assert_eq!(refused_credentials("streams", &fault("AccessDeniedException")), None);
        let expired = refused_credentials("streams", &fault("ExpiredTokenException")).unwrap();
        assert_eq!(expired.remedy.as_deref(), Some("renew them"));
    }

    #[test]
    fn certificate_that_is_not_trusted_has_its_own_advice() {
        let (time, not_after) = (UnixTime::now(), UnixTime::since_unix_epoch(Duration::from_secs(1)));
        let expected = ServerName::try_from("localhost").unwrap();
        for (error, says) in [
            (CertificateError::UnknownIssuer, "AWS_CA_BUNDLE"),
            (CertificateError::Expired, "renewed"),
            (CertificateError::ExpiredContext { time, not_after }, "renewed"),
            (CertificateError::NotValidForName, "another host"),
            (CertificateError::NotValidForNameContext { expected, presented: vec![] }, "another host"),
        ] {
            let cause = TlsError::InvalidCertificate(error).to_string();
            assert!(unreachable(&cause, false).contains(says), "{cause}");
        }
        assert!(unreachable("its address could not be found", true).contains("region"));
        assert!(unreachable("connection refused", false).contains("security groups"));
    }

    #[test]
    fn clock_may_differ_by_some_seconds() {
        assert_eq!(clock(-9_000).verdict, Verdict::Ok);
        let behind = clock(90_000);
        assert_eq!((behind.verdict, behind.what.as_str()), (Verdict::Warning, "90 s behind that of the service"));
        assert!(!behind.remedy.unwrap().contains("refused"));
        assert!(clock(-400_000).what.contains("ahead of") && clock(-400_000).remedy.unwrap().contains("refused"));
    }

    #[test]
    fn stream_and_its_key_are_judged() {
        let arn = "arn:aws:kinesis:eu-west-1:111122223333:stream/orders";
        let summary = |status: &str, key: Option<&str>| Summary {
            stream: Stream::new("orders", arn),
            status: status.into(),
            key: key.map(str::to_owned),
            consumers: None,
        };
        for (status, verdict) in [
            ("ACTIVE", Verdict::Ok),
            ("UPDATING", Verdict::Ok),
            ("CREATING", Verdict::Warning),
            ("DELETING", Verdict::Failure),
        ] {
            assert_eq!(stream(&summary(status, None)).verdict, verdict, "{status}");
        }
        assert_eq!(encryption_key(&summary("ACTIVE", None)), None);
        let key = |key| encryption_key(&summary("ACTIVE", Some(key))).unwrap();
        assert_eq!(key("alias/aws/kinesis").statement, None);
        for (given, resource) in [
            ("1234abcd", "arn:aws:kms:eu-west-1:111122223333:key/1234abcd"),
            ("alias/mine", "arn:aws:kms:eu-west-1:111122223333:key/*"),
            ("arn:aws:kms:eu-west-1:999:key/5", "arn:aws:kms:eu-west-1:999:key/5"),
        ] {
            let found = key(given);
            assert_eq!((found.verdict, found.statement.unwrap().resource), (Verdict::Note, vec![resource.to_owned()]));
        }
    }

    #[test]
    fn consumer_can_be_registered_while_there_is_room() {
        assert_eq!(absent_consumer("reader", Some(19)).verdict, Verdict::Note);
        assert_eq!(absent_consumer("reader", Some(20)).verdict, Verdict::Failure);
        assert_eq!(absent_consumer("reader", None).verdict, Verdict::Note);
    }

    #[test]
    fn path_that_can_not_be_written_has_a_remedy_of_its_own() {
        for (kind, says) in [
            (io::ErrorKind::ReadOnlyFilesystem, "read-only"),
            (io::ErrorKind::PermissionDenied, "let this process write"),
            (io::ErrorKind::NotFound, "make its folder"),
            (io::ErrorKind::StorageFull, "make room"),
        ] {
            let (what, remedy) = unwritable(Path::new("/data/out"), &kind.into());
            assert!(what.contains("/data/out") && remedy.contains(says), "{what}; {remedy}");
        }
    }
}
