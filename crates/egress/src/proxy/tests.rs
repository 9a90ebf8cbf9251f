//! Which proxy a connection goes through, and that nothing shows its login.

use super::*;

fn server(text: &str) -> ProxyServer {
    ProxyServer::parse(text).unwrap()
}

fn destination(name: Option<&str>, address: &str) -> Destination {
    Destination {
        name: name.map(|name| HostName::parse(name).unwrap()),
        address: address.parse().unwrap(),
    }
}

#[test]
fn a_proxy_is_a_scheme_a_login_a_host_and_a_port() {
    for (text, shown, user) in [
        ("http://p.test:3128", "http://p.test:3128", None),
        ("p.test:3128/", "http://p.test:3128", None),
        ("HTTP://p.test", "http://p.test:80", None),
        ("socks5://127.0.0.1", "socks5://127.0.0.1:1080", None),
        ("socks5h://u:p@[::1]:9", "socks5h://[::1]:9", Some("u")),
        ("http://u:p@ss@p.test:1", "http://p.test:1", Some("u")),
        ("http://a%40b:%3a@p.test:1", "http://p.test:1", Some("a@b")),
        ("http://u@p.test:1", "http://p.test:1", Some("u")),
    ] {
        let proxy = server(text);
        assert_eq!(proxy.to_string(), shown, "{text}");
        let login = proxy.login.as_ref().map(|login| login.user.expose());
        assert_eq!(login, user, "{text}");
    }
    let basic = server("http://Aladdin:open%20sesame@p.test:1");
    let basic = basic.authorization().unwrap().expose();
    assert_eq!(basic, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
}

#[test]
fn what_is_no_proxy_or_cannot_be_spoken_to_is_refused_without_repeating_it() {
    for (text, error) in [
        ("", ProxyError::Form),
        ("http://", ProxyError::Form),
        ("ftp://p.test", ProxyError::Form),
        ("http://p.test:0", ProxyError::Form),
        ("http://p.test:x", ProxyError::Form),
        ("http://::1:80", ProxyError::Form),
        ("http://[p.test]:80", ProxyError::Form),
        ("http://p test", ProxyError::Form),
        ("http://someone:hunter2@", ProxyError::Form),
        ("http://a\r\nb", ProxyError::Form),
        ("http://u:a%0ab@p.test", ProxyError::Login),
        ("http://u:%ff@p.test", ProxyError::Login),
        ("http://:p@p.test", ProxyError::Login),
        (
            "https://someone:hunter2@p.test",
            ProxyError::Scheme { scheme: "https" },
        ),
        ("socks4://p.test", ProxyError::Scheme { scheme: "socks4" }),
    ] {
        let refused = ProxyServer::parse(text).unwrap_err();
        assert_eq!(refused, error, "{text:?}");
        assert!(!refused.to_string().contains("hunter"));
    }
    let long = format!("http://u:{}@p.test", "x".repeat(256));
    assert_eq!(ProxyServer::parse(&long).unwrap_err(), ProxyError::Login);
}

#[test]
fn nothing_shows_the_login() {
    let settings = ProxySettings {
        all: Some(server("http://the-user:the-password@p.test:1")),
        ..ProxySettings::default()
    };
    let shown = format!("{settings:?} {}", settings.all.as_ref().unwrap());
    for private in [
        "the-user",
        "the-password",
        &STANDARD.encode("the-user:the-password"),
    ] {
        assert!(!shown.contains(private), "{shown}");
    }
}

#[test]
fn the_port_chooses_the_variable_and_all_stands_in() {
    let of = |http: Option<&str>, https: Option<&str>, all: Option<&str>, port: u16| {
        let settings = ProxySettings {
            http: http.map(server),
            https: https.map(server),
            all: all.map(server),
            no_proxy: NoProxy::default(),
        };
        let to = destination(None, &format!("8.8.8.8:{port}"));
        settings.choose(&to).map(|proxy| proxy.host.clone())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of(Some("h"), Some("s"), Some("a"), 80), some("h"));
    assert_eq!(of(Some("h"), Some("s"), Some("a"), 443), some("s"));
    assert_eq!(of(Some("h"), Some("s"), Some("a"), 22), some("s"));
    assert_eq!(of(None, Some("s"), Some("a"), 80), some("a"));
    assert_eq!(of(Some("h"), None, None, 443), None);
    assert_eq!(of(None, None, None, 443), None);
}

#[test]
fn exceptions_are_read_as_curl_reads_them() {
    for (no_proxy, name, address, direct) in [
        ("", Some("a.test"), "8.8.8.8:443", false),
        ("a.test", Some("a.test"), "8.8.8.8:443", true),
        ("A.Test.", Some("a.test"), "8.8.8.8:443", true),
        ("a.test", Some("x.a.test"), "8.8.8.8:443", true),
        (".a.test", Some("x.a.test"), "8.8.8.8:443", true),
        (".a.test", Some("a.test"), "8.8.8.8:443", true),
        ("a.test", Some("xa.test"), "8.8.8.8:443", false),
        ("b.test,a.test", Some("a.test"), "8.8.8.8:443", true),
        ("b.test  a.test", Some("a.test"), "8.8.8.8:443", true),
        (" , ,", Some("a.test"), "8.8.8.8:443", false),
        ("*", Some("a.test"), "8.8.8.8:443", true),
        ("*", None, "[2001:4860::1]:443", true),
        ("8.8.8.8", None, "8.8.8.8:443", true),
        ("8.8.0.0/16", Some("a.test"), "8.8.8.8:443", true),
        ("8.9.0.0/16", None, "8.8.8.8:443", false),
        ("2001:4860::/32", None, "[2001:4860::1]:443", true),
        ("test", None, "8.8.8.8:443", false),
    ] {
        let settings = ProxySettings {
            all: Some(server("p")),
            no_proxy: no_proxy.into(),
            ..ProxySettings::default()
        };
        let chosen = settings.choose(&destination(name, address));
        assert_eq!(chosen.is_none(), direct, "{no_proxy:?} {name:?} {address}");
    }
}

#[test]
fn only_names_that_a_proxy_is_given_and_may_resolve_are_its_own() {
    let settings = |proxy: &str, no_proxy: &str| ProxySettings {
        https: Some(ProxyServer::parse(proxy).unwrap()),
        no_proxy: no_proxy.into(),
        ..ProxySettings::default()
    };
    for (proxy, no_proxy, name, resolves) in [
        ("http://p.test", "", "a.test", true),
        ("socks5h://p.test", "", "a.test", true),
        ("socks5://p.test", "", "a.test", false),
        ("http://p.test", ".test", "a.test", false),
        ("http://p.test", "*", "a.test", false),
        ("http://p.test", "b.test", "a.test", true),
        ("http://p.test", "", "intranet", false),
        ("http://p.test", "", "printer.local", false),
        ("http://p.test", "", "a.b.internal", false),
        ("http://p.test", "", "a.localhost", false),
    ] {
        let name = HostName::parse(name).unwrap();
        let said = settings(proxy, no_proxy).resolves(&name);
        assert_eq!(said, resolves, "{proxy} {no_proxy:?} {name}");
    }
    let name = HostName::parse("a.test").unwrap();
    assert!(!ProxySettings::default().resolves(&name));
}
