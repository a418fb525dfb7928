//! How does the Security Token Service answer a client that assumes a role?

use std::time::Duration;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use crate::faults::{NoAnswer, RoleCredentials};
use crate::time::Time;

/// Whether a body is a request to assume a role: the service uses the query protocol.
pub(crate) fn is_asked(body: &[u8]) -> bool {
    body.starts_with(b"Action=AssumeRole&")
}

/// The status and the body of the answer.
pub(crate) fn answer(credentials: RoleCredentials, now: Time, life: Duration) -> Result<(u16, String), NoAnswer> {
    let token = match credentials {
        RoleCredentials::Usable => "simulated",
        RoleCredentials::Garbled => "simu&#10;lated",
        RoleCredentials::Denied => {
            return Ok((403, error("AccessDenied", "Not authorized to perform: sts:AssumeRole")));
        }
        RoleCredentials::Throttled => return Ok((400, error("Throttling", "Rate exceeded"))),
        RoleCredentials::Odd => return Ok((200, "<html/>".to_owned())),
        RoleCredentials::OutOfReach => return Err(NoAnswer::Refused),
    };
    let seconds = ((now + life).millis() / 1000).cast_signed();
    let expiration = DateTime::from_secs(seconds).fmt(Format::DateTime).unwrap_or_default();
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>ASIASIMULATED</AccessKeyId><SecretAccessKey>simulated</SecretAccessKey>\
         <SessionToken>{token}</SessionToken><Expiration>{expiration}</Expiration></Credentials></AssumeRoleResult>\
         </AssumeRoleResponse>"
    );
    Ok((200, body))
}

fn error(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    )
}
