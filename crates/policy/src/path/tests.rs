//! Which paths are clear, and which patterns cover them.

use proptest::prelude::*;

use super::*;

fn matches(pattern: &str, path: &str) -> bool {
    let path = NormalPath::parse(path).unwrap();
    PathPattern::parse(pattern).unwrap().matches(&path)
}

#[test]
fn a_path_that_servers_read_differently_is_none() {
    for path in [
        "",
        "x",
        "*",
        "/a/../b",
        "/..",
        "/a/.",
        "/./a",
        "/%2e%2e/a",
        "/a/%2E",
        "/.%2e/",
        "/a%2fb",
        "/a%2Fb",
        "/a\\b",
        "/a%5cb",
        "/a%00",
        "/a%0a",
        "/a%7f",
        "/a%252e",
        "/a%25",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%+1",
        "//a",
        "/a//b",
        "/a b",
        "/a\tb",
        "/é",
        "/a#b",
        "/a?b",
    ] {
        assert_eq!(NormalPath::parse(path), Err(PathUnclear), "{path:?}");
    }
}

#[test]
fn clear_paths_have_one_spelling() {
    for (path, normal) in [
        ("/", "/"),
        ("/a/", "/a/"),
        ("/%61%2D%2e%7e%5F", "/a-.~_"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b", "/a%20b"),
        ("/a:b@c!$&'()*+,;=", "/a:b@c!$&'()*+,;="),
        ("/...", "/..."),
        ("/.git", "/.git"),
    ] {
        assert_eq!(NormalPath::parse(path).unwrap().as_str(), normal);
    }
}

#[test]
fn a_star_is_one_segment_and_two_are_any_number() {
    for (pattern, path, covered) in [
        ("/", "/", true),
        ("/", "/a", false),
        ("/a", "/a", true),
        ("/a", "/a/", false),
        ("/a", "/A", false),
        ("/*", "/a", true),
        ("/*", "/", false),
        ("/*", "/a/b", false),
        ("/**", "/", true),
        ("/**", "/a/b/c", true),
        ("/a/**", "/a", true),
        ("/a/**", "/a/", true),
        ("/a/**", "/a/b/c", true),
        ("/a/**", "/ab", false),
        ("/repos/*/*/issues/**", "/repos/o/r/issues", true),
        ("/repos/*/*/issues/**", "/repos/o/r/issues/1/comments", true),
        ("/repos/*/*/issues/**", "/repos/o/issues/1", false),
        ("/**/x/**/y", "/a/x/b/x/c/y", true),
        ("/**/x/**/y", "/a/x/b/x/c/z", false),
        ("/**/b", "/a/b/b", true),
        ("/caf%C3%A9", "/caf%c3%a9", true),
    ] {
        assert_eq!(matches(pattern, path), covered, "{pattern} {path}");
    }
}

#[test]
fn patterns_that_could_never_match_are_refused() {
    for text in [
        "",
        "a",
        "*",
        "/a*",
        "/*.git",
        "/***",
        "/a/../b",
        "//",
        "/a?b",
        "/a%2fb",
        "/%61",
        "/caf%c3%a9",
        "/é",
        "/a b",
    ] {
        assert!(PathPattern::parse(text).is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn a_normal_path_is_its_own_normal_form(path in "(/[ -~]{0,6}){1,4}") {
        if let Ok(normal) = NormalPath::parse(&path) {
            prop_assert_eq!(NormalPath::parse(normal.as_str()), Ok(normal.clone()));
        }
    }

    #[test]
    fn matching_agrees_with_the_definition(
        pattern in "(/(a|b|\\*|\\*\\*)){1,6}",
        path in "(/(a|b|c)){1,7}",
    ) {
        fn covers(pattern: &[&str], path: &[&str]) -> bool {
            match pattern.split_first() {
                None => path.is_empty(),
                Some((&"**", rest)) => (0..=path.len()).any(|taken| covers(rest, &path[taken..])),
                Some((first, rest)) => path.split_first().is_some_and(|(here, more)| {
                    (*first == "*" || first == here) && covers(rest, more)
                }),
            }
        }
        let parts = |text: &'static str| text.split('/').skip(1).collect::<Vec<_>>();
        let (pattern, path): (&'static str, &'static str) = (pattern.leak(), path.leak());
        prop_assert_eq!(matches(pattern, path), covers(&parts(pattern), &parts(path)));
    }
}
