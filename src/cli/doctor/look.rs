//! One question to a server, whether it is trusted or not: nothing secret is sent, and its answer is
//! believed in no more than what it shows.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{AlertDescription, Error as TlsError, sign::CertifiedKey};

use crate::{
    base::clock,
    tls::{self, ApiKey, ServerTrust, words::Hints},
    web::{
        agent::{self, Agent, Call, Options},
        errors, proxy,
    },
};

/// A server has to answer within this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// More than this is not read of an answer, in bytes.
const MAX_ANSWER: u64 = 4096;

/// What a server shows of itself.
pub(crate) struct Look {
    /// The identity of the certificate that it showed.
    pub(crate) identity: Option<String>,
    /// The seconds that the clock of this machine is ahead of its own, if it tells the time.
    pub(crate) ahead: Option<i64>,
    /// Status and text of its answer, or why there is none.
    pub(crate) answer: Result<(u16, String), String>,
    /// It has proved who it is, but does not take the certificate.
    pub(crate) is_picky: bool,
}

/// How to get to a server.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// It is on this machine, or a key store.
    Direct,
    /// As the clients of a server, through `HTTPS_PROXY`.
    Proxy,
}

/// Asks for `url`. `endpoint` is what names the server; `certificate` is shown to it.
pub(crate) fn look(
    url: &str,
    endpoint: &'static str,
    trust: &ServerTrust,
    certificate: Option<Arc<CertifiedKey>>,
    way: Way,
) -> Result<Look, tls::Error> {
    let hints = Hints { trust: "KES_CA_FILE", endpoint, certificate: "", or_skip: "" };
    let tls = tls::client_config(trust, certificate)?;
    let is_secure = url.starts_with("https:");
    let proxy = match way {
        Way::Proxy => proxy::from_env(&url.parse().unwrap_or_default()),
        Way::Direct => Ok(None),
    };
    let proxy = match proxy {
        Ok(proxy) => proxy,
        Err(e) => {
            return Ok(Look { identity: None, ahead: None, answer: Err(e), is_picky: false });
        }
    };
    let agent = Agent::new(Options {
        tls: is_secure.then(|| tls.config.clone()),
        proxy,
        connect_timeout: TIMEOUT,
        response_timeout: None,
    });
    let call = Call { method: "GET", url, headers: &[], body: None, timeout: Some(TIMEOUT) };
    let (mut ahead, mut is_picky) = (None, false);
    let answer = agent.send(call).and_then(|mut answer| {
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        ahead = date.and_then(seconds).map(|date| now() - date);
        let text = agent::read(&mut answer, MAX_ANSWER)?;
        Ok((answer.status().as_u16(), String::from_utf8_lossy(&text).into_owned()))
    });
    let answer = answer.map_err(|e| {
        is_picky = matches!(errors::tls_error(&e), Some(TlsError::AlertReceived(alert)) if is_refusal(*alert));
        errors::reason(&e, &hints, TIMEOUT)
    });
    Ok(Look { identity: tls.server(), ahead, answer, is_picky })
}

/// Whether a server says so that it does not take the certificate of its client, or wants one.
fn is_refusal(alert: AlertDescription) -> bool {
    use AlertDescription::*;
    matches!(
        alert,
        CertificateRequired
            | UnknownCA
            | BadCertificate
            | CertificateUnknown
            | UnsupportedCertificate
            | CertificateExpired
            | CertificateRevoked
            | NoCertificate
            | AccessDenied
            | HandshakeFailure
    )
}

/// A certificate of nobody: servers that take any take it, and others show theirs before they refuse it.
pub(crate) fn nobody() -> Option<Arc<CertifiedKey>> {
    ApiKey::generate().ok()?.certificate().ok()
}

/// Where `address`, which something may listen on, can be asked from this machine.
pub(crate) fn from_here(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(proxy::to_loopback(address.ip()), address.port())
}

fn now() -> i64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}

/// The seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 5.6.7).
fn seconds(date: &str) -> Option<i64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = date.split([' ', ':']).skip(1);
    let day = words.next()?.parse().ok()?;
    let month = u8::try_from(MONTHS.find(words.next()?)? / 3 + 1).ok()?;
    let year = words.next()?.parse().ok()?;
    let mut number = || words.next()?.parse().ok();
    let (hour, minute, second) = (number()?, number()?, number()?);
    Some(tz::UtcDateTime::new(year, month, day, hour, minute, second, 0).ok()?.unix_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_rfc() {
        assert_eq!(Some(784_111_777), seconds("Sun, 06 Nov 1994 08:49:37 GMT"));
        for date in
            ["", "now", "Sun, 06 Nov 1994", "Sun, 32 Nov 1994 08:49:37 GMT", "Sun, 06 é 1994 1:1:1"]
        {
            assert_eq!(None, seconds(date), "{date}");
        }
    }
}
