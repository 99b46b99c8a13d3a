//! The head of a request: however it is cut, what goes on to the server behind is one plain request that everybody reads
//! alike, with all that the client said and nothing that only the gate may say.
#![no_main]

use gangplank::server::gate::fuzz::{self, Head};
use gangplank::server::gate::headers;
use gangplank_fuzz::Input;
use libfuzzer_sys::fuzz_target;

/// For the client's own connection only, or said anew.
const HOPS: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

type Fields = Vec<(String, String)>;

fuzz_target!(|bytes: &[u8]| {
    let input = Input::new(bytes);
    let at_once = fuzz::head(&[&input.text]);
    let pieces = input.pieces(&input.text);
    assert_eq!(at_once, fuzz::head(&pieces));
    match at_once {
        Ok(Some(head)) => went_through(&input.text, &head),
        Ok(None) => assert!(input.text.len() < 16 << 10, "no end and no limit"),
        Err((status, why)) => {
            let known = [400, 411, 414, 417, 431, 501, 505];
            assert!(known.contains(&status) && !why.is_empty(), "{status}");
            assert!(!why.contains(['\r', '\n']), "{why:?}");
        }
    }
});

/// A head by httparse: method, target, minor version, fields.
fn parsed(bytes: &[u8]) -> (String, String, u8, Fields) {
    let mut space = [httparse::EMPTY_HEADER; 80];
    let mut request = httparse::Request::new(&mut space);
    let end = request.parse(bytes).expect("it parses");
    assert_eq!(end, httparse::Status::Complete(bytes.len()), "one request");
    let fields = request.headers.iter().map(|field| {
        let value = std::str::from_utf8(field.value).expect("ASCII");
        (field.name.to_owned(), value.to_owned())
    });
    (
        request.method.expect("complete").to_owned(),
        request.path.expect("complete").to_owned(),
        request.version.expect("complete"),
        fields.collect(),
    )
}

fn values<'a>(fields: &'a Fields, name: &str) -> Vec<&'a str> {
    let named = fields
        .iter()
        .filter(|(known, _)| known.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_str()).collect()
}

fn went_through(text: &[u8], head: &Head) {
    let raw = &text[head.begin..head.end];
    let empty = &text[..head.begin];
    assert!(
        empty.chunks(2).all(|two| two == b"\r\n"),
        "only empty lines before"
    );
    let (method, target, minor, asked) = parsed(raw);
    let lines = lines(&head.forwarded);
    let (method_on, target_on, minor_on, fields) = parsed(&head.forwarded);
    assert_eq!((method_on, target_on, minor_on), (method, target, minor));
    as_tiny_http_reads_it(&lines, &fields);

    // Of a body nothing is said, and this is the only request of its connection.
    for name in ["Content-Length", "Transfer-Encoding", "Expect"] {
        assert_eq!(values(&fields, name), [""; 0]);
    }
    assert_eq!(values(&fields, "Connection"), ["close"]);
    assert!(values(&fields, "Host").len() <= 1);
    let waits = minor == 1 && head.length != Some(0) && !values(&asked, "Expect").is_empty();
    assert_eq!(head.expects, waits);

    // Which connection it is, is the gate's word alone.
    let number = fuzz::CONNECTION.to_string();
    assert_eq!(values(&fields, headers::CONNECTION), [number]);
    let private = fields.iter().filter(|(name, _)| headers::is_private(name));
    assert_eq!(private.count(), 1);
    let declared = values(&asked, "Content-Length");
    let declared = declared.first().and_then(|text| text.parse::<u64>().ok());
    assert_eq!(head.declared, declared);
    assert!(declared.is_none() || head.length == declared);

    // What the client said goes on as it is, but for what was for its own connection only.
    let named = values(&asked, "Connection").join(",").to_ascii_lowercase();
    let named: Vec<_> = named.split(',').map(str::trim).collect();
    let goes_on = |name: &str| {
        let name = name.to_ascii_lowercase();
        !headers::is_private(&name) && !HOPS.contains(&&*name)
    };
    let hops = fields.iter().map(|(name, _)| name.to_ascii_lowercase());
    let mut hops = hops.filter(|name| HOPS.contains(&&**name) && name != "connection");
    assert_eq!(hops.next(), None, "it goes no further than the gate");
    let mut expected = asked;
    expected.retain(|(name, _)| goes_on(name) && !named.contains(&&*name.to_ascii_lowercase()));
    let went: Fields = fields
        .into_iter()
        .filter(|(name, _)| goes_on(name))
        .collect();
    assert_eq!(went, expected);
}

/// The lines of a head, in which nothing but its line ends is out of the ordinary.
fn lines(head: &[u8]) -> Vec<&str> {
    let text = std::str::from_utf8(head).expect("ASCII");
    let ended = text
        .strip_suffix("\r\n\r\n")
        .expect("an empty line ends it");
    let lines: Vec<_> = ended.split("\r\n").collect();
    for line in &lines {
        assert!(!line.is_empty(), "an empty line");
        let plain = |byte: u8| matches!(byte, b'\t' | b' '..=b'~');
        assert!(line.bytes().all(plain), "{line:?}");
    }
    lines
}

/// tiny_http trims lines and splits at the first colon: it must find the same fields.
fn as_tiny_http_reads_it(lines: &[&str], fields: &Fields) {
    assert_eq!(lines[0].split(' ').count(), 3, "{:?}", lines[0]);
    assert_eq!(lines.len() - 1, fields.len());
    for (line, (name, value)) in lines[1..].iter().zip(fields) {
        let read: tiny_http::Header = line.trim().parse().expect("a field");
        assert_eq!(
            (read.field.as_str().as_str(), read.value.as_str()),
            (&**name, value.trim())
        );
    }
}
