//! Which web pages may send requests. A browser on this machine reaches this server, and runs pages of anyone.
//!
//! In: the headers of a request. Refused: requests of another site's page, and requests to a host name that is not this
//! machine's.

use std::net::IpAddr;

use hyper::{
    StatusCode,
    header::{HOST, HeaderMap, HeaderValue, ORIGIN},
};

use crate::reply::Refusal;

/// Refuses requests of another site's page. The browser's headers say which site a page came from.
pub(crate) fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let site = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, site)| site.as_bytes());
    match site.is_some() && site == headers.get(HOST).map(HeaderValue::as_bytes) {
        true => Ok(()),
        false => {
            Err(Refusal::new(StatusCode::FORBIDDEN, "a page of another site asks, and only this server's own page may"))
        }
    }
}

/// Refuses a host name that is not this machine's own. Otherwise a page could point its own name at this machine and
/// count as the same site.
pub(crate) fn check_host(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(host) = headers.get(HOST) else { return Ok(()) };
    let host = host.to_str().unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match name == "localhost" || address.parse::<IpAddr>().is_ok() {
        true => Ok(()),
        false => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "expected localhost or an address as the host, for without --token-file this machine alone is served",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_machines_are_refused() {
        let check = |host: &'static str| check_host(&[(HOST, HeaderValue::from_static(host))].into_iter().collect());
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]"] {
            check(host).unwrap();
        }
        for host in ["evil", "evil:8080", "localhost.evil:8080", "", ":8080"] {
            assert!(check(host).is_err(), "{host} was accepted");
        }
        check_host(&HeaderMap::new()).unwrap();
    }

    #[test]
    fn only_the_servers_own_page_may_ask() {
        let headers = |pairs: &[(hyper::header::HeaderName, &'static str)]| {
            pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect::<HeaderMap>()
        };
        check_origin(&headers(&[(HOST, "pi:8080")])).unwrap();
        check_origin(&headers(&[(HOST, "pi:8080"), (ORIGIN, "http://pi:8080")])).unwrap();
        for origin in ["http://evil", "null", "http://pi:80", "pi:8080"] {
            assert!(check_origin(&headers(&[(HOST, "pi:8080"), (ORIGIN, origin)])).is_err(), "{origin} was accepted");
        }
        assert!(check_origin(&headers(&[(ORIGIN, "http://pi:8080")])).is_err());
    }
}
