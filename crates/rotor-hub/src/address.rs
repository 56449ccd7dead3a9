//! Addresses, and which of them may see a token.

use crate::error::HubError;
use ureq::http::Uri;

/// Characters of an address that a message shows: a host may send one of any length.
pub(crate) const SHOWN: usize = 300;

/// An absolute http or https address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address(Uri);

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    secure: bool,
    host: String,
    port: u16,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Option<Address> {
        let uri: Uri = text.parse().ok()?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.host().filter(|host| !host.is_empty())?;
        let authority = uri.authority()?.as_str();
        let after = authority.rsplit('@').next()?.strip_prefix(host)?;
        // A port beyond the last one would otherwise count as none, which is the usual one.
        let has_port = after.is_empty() || uri.port_u16().is_some();
        (known && has_port).then_some(Address(uri))
    }

    /// Where a redirect from here leads.
    pub(crate) fn join(&self, location: &str) -> Option<Address> {
        let scheme = self.0.scheme_str()?;
        let authority = self.0.authority()?;
        if location.starts_with("//") {
            Self::parse(&format!("{scheme}:{location}"))
        } else if location.starts_with('/') {
            Self::parse(&format!("{scheme}://{authority}{location}"))
        } else if location.contains("://") {
            Self::parse(location)
        } else {
            let folder = self.0.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            Self::parse(&format!("{scheme}://{authority}{folder}/{location}"))
        }
    }

    pub(crate) fn origin(&self) -> Origin {
        let secure = self.0.scheme_str() == Some("https");
        let host = self.0.host().unwrap_or_default().to_ascii_lowercase();
        Origin { secure, host, port: self.0.port_u16().unwrap_or(if secure { 443 } else { 80 }) }
    }

    /// The host and port, for messages.
    pub(crate) fn host(&self) -> String {
        let host = self.0.host().unwrap_or_default();
        self.0.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The address without its query: signed addresses have their secret there.
    pub(crate) fn shown(&self) -> String {
        let shown = format!("{}://{}{}", self.0.scheme_str().unwrap_or_default(), self.host(), self.0.path());
        shown.chars().take(SHOWN).collect()
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl Origin {
    fn is_loopback(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Whether a redirect from here to `target` keeps what it carries as safe as it was.
    pub(crate) fn may_lead_to(&self, target: &Origin) -> bool {
        target.secure || !self.secure || (self.is_loopback() && target.is_loopback())
    }
}

/// A text as one part of an address's path, or, with `keep_slashes`, as several.
pub(crate) fn encoded(text: &str, keep_slashes: bool) -> String {
    let mut result = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        if plain || (keep_slashes && byte == b'/') {
            result.push(char::from(byte));
        } else {
            result.push_str(&format!("%{byte:02X}"));
        }
    }
    result
}

/// The address of one of the endpoint's paths.
pub(crate) fn endpoint(base: &str, path: &str) -> Result<Address, HubError> {
    Address::parse(&format!("{base}{path}")).ok_or_else(|| HubError::Answer {
        host: base.to_owned(),
        what: "an address has to be one, not",
        found: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_may_be_relative() {
        let from = Address::parse("https://hub:8443/a/b?x=1").unwrap();
        let to = |location: &str| from.join(location).map(|address| address.0.to_string());
        assert_eq!(to("/c").as_deref(), Some("https://hub:8443/c"));
        assert_eq!(to("c?d").as_deref(), Some("https://hub:8443/a/c?d"));
        assert_eq!(to("//cdn/c").as_deref(), Some("https://cdn/c"));
        assert_eq!(to("http://cdn/c").as_deref(), Some("http://cdn/c"));
        for bad in
            ["file:///etc/passwd", "ftp://x/y", "https://", "http:///x", "\u{1}://x", "http://x:99999/", "http://x:/y"]
        {
            assert_eq!(to(bad), None, "{bad}");
        }
        assert_eq!(from.shown(), "https://hub:8443/a/b");
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Address::parse(text).unwrap().origin();
        assert_eq!(origin("https://Hub/a"), origin("https://hub:443/b"));
        assert_ne!(origin("https://hub"), origin("https://hub:8443"));
        assert_ne!(origin("https://hub"), origin("http://hub:443"));
        assert!(origin("https://hub").may_lead_to(&origin("https://cdn")));
        assert!(!origin("https://hub").may_lead_to(&origin("http://hub")));
        assert!(!origin("https://127.0.0.1").may_lead_to(&origin("http://192.168.0.1")));
        assert!(origin("https://localhost").may_lead_to(&origin("http://[::1]:80")));
    }

    #[test]
    fn parts_of_a_path_are_encoded() {
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encoded("a b/ä.gguf", true), "a%20b/%C3%A4.gguf");
    }
}
