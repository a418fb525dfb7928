//! Over which connections do we talk to the service?
//!
//! The one place that makes HTTP clients. Control calls and subscriptions get one each, so that they never share a
//! connection. For now both are the SDK's own; a client that bounds streams and windows goes in here.

use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

/// A client with connections of its own. The first one made reads the system's certificates, which takes a moment.
pub(crate) fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https()
}
