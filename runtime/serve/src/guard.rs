//! Which web pages may send requests. A browser on this machine reaches this server, and runs pages of anyone.
//!
//! In: the head of a request. Refused: requests of another site's page, requests to a host name that is not this
//! machine's, and heads that name no host or two.

use std::net::IpAddr;

use hyper::{
    StatusCode, Uri, Version,
    header::{HOST, HeaderMap, HeaderValue, ORIGIN},
};

use crate::reply::Refusal;

/// Refuses a head that does not say once which host it asks (RFC 9112, section 3.2).
pub(crate) fn check_head(version: Version, headers: &HeaderMap) -> Result<(), Refusal> {
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && version == Version::HTTP_11) {
        return Err(Refusal::expected("Host", "one", hosts));
    }
    Ok(())
}

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
pub(crate) fn check_host(uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    // A whole address in the first line counts before the header.
    let named = uri.authority().map(|authority| authority.as_str());
    let header = || Some(headers.get(HOST)?.to_str().unwrap_or_default());
    let Some(host) = named.or_else(header) else { return Ok(()) };
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
    use hyper::header::HeaderName;

    use super::*;

    #[test]
    fn names_of_other_machines_are_refused() {
        let path = Uri::from_static("/predict");
        let named = |host| [(HOST, HeaderValue::from_static(host))].into_iter().collect();
        let check = |host: &'static str| check_host(&path, &named(host));
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]"] {
            check(host).unwrap();
        }
        for host in ["evil", "evil:8080", "localhost.evil:8080", "", ":8080"] {
            assert!(check(host).is_err(), "{host} was accepted");
        }
        check_host(&path, &HeaderMap::new()).unwrap();
        check_host(&Uri::from_static("http://localhost:8080/predict"), &named("evil")).unwrap();
        check_host(&Uri::from_static("http://evil/predict"), &named("localhost")).unwrap_err();
    }

    #[test]
    fn a_head_names_one_host() {
        let check = |version, pairs: &[(HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, HeaderValue::from_static(value));
            }
            check_head(version, &headers)
        };
        check(Version::HTTP_11, &[(HOST, "localhost")]).unwrap();
        check(Version::HTTP_10, &[]).unwrap();
        for pairs in [&[][..], &[(HOST, "localhost"), (HOST, "evil")]] {
            assert!(check(Version::HTTP_11, pairs).is_err(), "{pairs:?} was accepted");
        }
    }

    #[test]
    fn only_the_servers_own_page_may_ask() {
        let headers = |pairs: &[(HeaderName, &'static str)]| {
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
