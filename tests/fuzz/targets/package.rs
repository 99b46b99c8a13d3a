//! Packages: whatever is taken is nothing else to the programs that get it, and nothing that is shown has credentials.
#![no_main]

use gangplank::api::package::{PackageSource, PackageSpec, PackageUrl};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(spec) = PackageSpec::parse(text) else {
        return;
    };
    assert_eq!(spec.reveal(), text);
    let shown = spec.identifier();
    match &spec.source {
        PackageSource::Npm { name, range } => {
            is_argument(name);
            let range = range.as_deref().unwrap_or("1");
            assert!(
                !range.contains([':', '/', '@', '#']),
                "npm would fetch it from there"
            );
        }
        PackageSource::Tarball { url, sha256 } => {
            is_url(url, &["http", "https"]);
            assert!(sha256.as_ref().is_none_or(|hex| hex.len() == 64));
        }
        PackageSource::Git { url, reference } => {
            is_url(url, &["http", "https", "ssh", "git"]);
            is_argument(reference.as_deref().unwrap_or("HEAD"));
            assert!(
                !reference.as_deref().unwrap_or_default().contains(':'),
                "a refspec"
            );
        }
        PackageSource::File(path) => {
            assert!(path.is_absolute() && !path.components().any(|one| one.as_os_str() == ".."));
        }
    }
    if shown.contains("?...") {
        return;
    }
    // What is shown names the same, and has nothing more to hide.
    let again = PackageSpec::parse(shown).expect("what is shown is a package, too");
    assert_eq!(again.source, spec.source);
    assert_eq!(again.identifier(), shown);
    assert_eq!(again.credentials, None);
});

fn is_argument(text: &str) {
    assert!(
        !text.is_empty() && !text.starts_with(['-', '+']),
        "an option"
    );
    assert!(!text.contains(char::is_control));
}

fn is_url(url: &PackageUrl, schemes: &[&str]) {
    assert!(schemes.contains(&url.scheme));
    let (user, host) = match url.authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, &*url.authority),
    };
    is_argument(host);
    assert!(user.is_none() || url.scheme == "ssh", "credentials");
    is_argument(user.unwrap_or("git"));
    assert!(!user.unwrap_or_default().contains(':'), "a password");
    assert!(url.path().starts_with('/') && !url.path().contains(char::is_whitespace));
}
