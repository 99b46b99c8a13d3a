use super::*;

/// Gives a body in reads of at most so many bytes.
struct Dripping<'a> {
    body: &'a [u8],
    len: usize,
}

impl Read for Dripping<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.len.min(out.len()).min(self.body.len());
        out[..len].copy_from_slice(&self.body[..len]);
        self.body = &self.body[len..];
        Ok(len)
    }
}

type Parts = (Vec<(String, String)>, Option<Vec<u8>>);

fn read_all<R: Read>(mut reader: Reader<R>, piece: usize) -> Result<Parts, Refusal> {
    let mut fields = Vec::new();
    let mut file = None;
    loop {
        match reader.next()? {
            Part::Field { name, value } => fields.push((name, value)),
            Part::End => {
                assert_eq!(reader.next(), Ok(Part::End));
                assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
                return Ok((fields, file));
            }
            Part::File { name } => {
                assert_eq!(name, "payload");
                let mut bytes = Vec::new();
                let mut buffer = vec![0; piece];
                loop {
                    match reader.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(len) => bytes.extend_from_slice(&buffer[..len]),
                        Err(error) => {
                            let refusal =
                                Refusal::of_reading("reading the form: receiving the body", &error);
                            assert_eq!(reader.next(), Err(refusal.clone()));
                            assert!(reader.read(&mut buffer).is_err());
                            return Err(refusal);
                        }
                    }
                }
                assert_eq!(reader.read(&mut buffer).unwrap(), 0);
                file = Some(bytes);
            }
        }
    }
}

const LENS: [usize; 6] = [1, 2, 3, 7, 64, 4096];

/// Reads a body in every way and expects the same each time.
fn parsed(boundary: &str, body: &[u8]) -> Result<Parts, Refusal> {
    let whole = read_all(Reader::new(body, boundary), 1 << 16);
    for len in LENS {
        for piece in [1, 5, 4096] {
            let dripped = read_all(Reader::new(Dripping { body, len }, boundary), piece);
            assert_eq!(dripped, whole, "reads of {len}, pieces of {piece}");
        }
    }
    whole
}

fn field(name: &str, value: &str) -> (String, String) {
    (name.into(), value.into())
}

fn part(name: &str, value: &str) -> String {
    format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn file_part(name: &str, value: &str) -> String {
    format!(
        "--B\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"x\"\r\n\r\n{value}\r\n"
    )
}

#[test]
fn bodies_of_known_clients() {
    let curl = "--------------------------d74496d66958873e\r\n\
        Content-Disposition: form-data; name=\"operation\"\r\n\r\ndeploy_component\r\n\
        --------------------------d74496d66958873e\r\n\
        Content-Disposition: form-data; name=\"payload\"; filename=\"a \\\"b\\\".tar.gz\"\r\n\
        Content-Type: application/octet-stream\r\n\r\n\x1f\r\n\r\n\
        --------------------------d74496d66958873e--\r\n";
    let node = "------formdata-undici-0123\r\n\
        Content-Disposition: form-data; name=\"operation\"\r\n\r\ndeploy_component\r\n\
        ------formdata-undici-0123\r\n\
        Content-Disposition: form-data; name=\"payload\"; filename=\"blob\"\r\n\
        Content-Type: application/octet-stream\r\n\r\n\x1f\r\n\r\n\
        ------formdata-undici-0123--\r\n";
    let harper = "------HarperMultipart7f3a\r\n\
        Content-Disposition: form-data; name=\"operation\"\r\n\r\ndeploy_component\r\n\
        ------HarperMultipart7f3a\r\n\
        Content-Disposition: form-data; name=\"payload\"; filename=\"package.tar.gz\"\r\n\
        Content-Type: application/gzip\r\n\r\n\x1f\r\n\r\n\
        ------HarperMultipart7f3a--\r\n";
    let table = [
        ("------------------------d74496d66958873e", curl),
        ("----formdata-undici-0123", node),
        ("----HarperMultipart7f3a", harper),
    ];
    for (boundary, body) in table {
        let (fields, file) = parsed(boundary, body.as_bytes()).unwrap();
        assert_eq!(fields, [field("operation", "deploy_component")]);
        assert_eq!(file.as_deref(), Some(b"\x1f\r\n".as_slice()));
    }
}

#[test]
fn accepted_bodies() {
    let a = part("a", "1");
    type Row<'a> = (String, &'a [(String, String)], Option<&'a str>);
    let table: &[Row<'_>] = &[
        (format!("{a}--B--"), &[field("a", "1")], None),
        (
            format!("{a}--B--\r\nepilogue --B x"),
            &[field("a", "1")],
            None,
        ),
        (format!("preamble\r\n{a}--B--"), &[field("a", "1")], None),
        (format!("\r\n{a}--B--"), &[field("a", "1")], None),
        (
            format!("{}--B--", a.replacen("--B", "--B \t", 1)),
            &[field("a", "1")],
            None,
        ),
        (
            format!("{}{}--B--", part("a", ""), part("b", "ä\r\n--A")),
            &[field("a", ""), field("b", "ä\r\n--A")],
            None,
        ),
        (format!("{}--B--", file_part("payload", "")), &[], Some("")),
        (
            format!("{a}{}--B--", file_part("payload", "\r\n--A\r\n\r\n")),
            &[field("a", "1")],
            Some("\r\n--A\r\n\r\n"),
        ),
        // Without a filename it is a field, whatever its name.
        (
            format!("{}--B--", part("payload", "YQ==")),
            &[field("payload", "YQ==")],
            None,
        ),
    ];
    for (body, fields, file) in table {
        let (found, bytes) = parsed("B", body.as_bytes()).unwrap();
        assert_eq!(
            (&*found, bytes.as_deref()),
            (*fields, file.map(str::as_bytes)),
            "{body:?}"
        );
    }
}

#[test]
fn refused_bodies() {
    let a = part("a", "1");
    let file = file_part("payload", "x");
    let many = (0..65)
        .map(|n| part(&format!("f{n}"), ""))
        .collect::<String>();
    let table = [
        ("--B--".into(), Code::BadRequest, "no parts"),
        (
            String::new(),
            Code::UploadBroken,
            "before its first boundary",
        ),
        (
            "hello".into(),
            Code::UploadBroken,
            "before its first boundary",
        ),
        (
            format!("{}{a}--B--", "x".repeat(70_000)),
            Code::BadRequest,
            "does not begin with the boundary",
        ),
        (
            format!("--BB\r\n{a}--B--"),
            Code::BadRequest,
            "followed by neither",
        ),
        (
            format!("--B-\r\n{a}--B--"),
            Code::BadRequest,
            "followed by neither",
        ),
        (
            format!("--B\n{a}--B--"),
            Code::BadRequest,
            "followed by neither",
        ),
        (
            format!("--B{}\r\n{a}--B--", " ".repeat(9000)),
            Code::BadRequest,
            "followed by neither",
        ),
        (
            format!("--B\r\nno head\r\n\r\n{a}--B--"),
            Code::BadRequest,
            "broken part head",
        ),
        (
            format!("--B\r\n\r\n{a}--B--"),
            Code::BadRequest,
            "no Content-Disposition",
        ),
        (
            format!("--B\r\nX: {}\r\n\r\n{a}--B--", "x".repeat(9000)),
            Code::BadRequest,
            "longer than 8192",
        ),
        (
            format!("--B\r\nX: {}", "x".repeat(70_000)),
            Code::BadRequest,
            "longer than 8192",
        ),
        (format!("{many}--B--"), Code::TooLarge, "\"f64\""),
        (
            format!("{}--B--", part("big", &"x".repeat((1 << 20) + 1))),
            Code::TooLarge,
            "\"big\"",
        ),
        (
            format!("{file}{file}--B--"),
            Code::BadRequest,
            "a second file, \"payload\"",
        ),
        (
            format!("{file}{a}--B--"),
            Code::BadRequest,
            "\"a\" follows the file",
        ),
        (
            format!("{}--B--", file_part("other", "x")),
            Code::BadRequest,
            "\"other\"",
        ),
        (
            format!("{file}--B"),
            Code::UploadBroken,
            "before its closing boundary",
        ),
        (format!("{file}--"), Code::UploadBroken, "within the file"),
        (a.clone(), Code::UploadBroken, "before its closing boundary"),
    ];
    for (body, code, part) in table {
        let refusal = if body.len() < 1 << 20 {
            parsed("B", body.as_bytes()).unwrap_err()
        } else {
            read_all(Reader::new(body.as_bytes(), "B"), 4096).unwrap_err()
        };
        let shown = &body[..body.len().min(100)];
        assert_eq!(refusal.code, code, "{shown:?}: {refusal}");
        assert!(refusal.message.contains(part), "{shown:?}: {refusal}");
    }
}

#[test]
fn limits_are_met_exactly() {
    let fields = (0..64)
        .map(|n| part(&format!("f{n}"), ""))
        .collect::<String>();
    let body = format!("{fields}{}--B--", file_part("payload", "x"));
    assert_eq!(parsed("B", body.as_bytes()).unwrap().0.len(), 64);
    let value = "x".repeat(1 << 20);
    let body = format!("{}--B--", part("big", &value));
    let (fields, _) = read_all(Reader::new(body.as_bytes(), "B"), 1).unwrap();
    assert_eq!(fields, [field("big", &value)]);
}

#[test]
fn a_field_that_is_not_utf8_is_refused() {
    let mut body = part("a", "1").into_bytes();
    let at = body.len() - 3;
    body[at] = 0xff;
    body.extend_from_slice(b"--B--");
    let refusal = parsed("B", &body).unwrap_err();
    assert_eq!(refusal.code, Code::BadRequest);
    assert!(refusal.message.contains("\"a\" is not UTF-8"), "{refusal}");
}

#[test]
fn every_truncation_is_an_error() {
    let body = format!(
        "{}{}--B--",
        part("a", "1"),
        file_part("payload", "\r\n--\r\nx")
    );
    let body = body.as_bytes();
    assert!(parsed("B", body).is_ok());
    for len in 0..body.len() {
        let refusal = parsed("B", &body[..len]).unwrap_err();
        assert_eq!(refusal.code, Code::UploadBroken, "{len}: {refusal}");
    }
}

#[test]
fn payloads_that_look_like_boundaries() {
    let boundary = "boundary";
    let table = [
        "\r\n--boundar".repeat(20_000),
        "\r\n--boundar\r".repeat(9000),
        "\r\n\r\n--".repeat(20_000),
        "--boundary".repeat(100),
        "\n--boundary\r--boundary".to_owned(),
        "\r".repeat(70_000),
    ];
    for payload in table {
        for cut in 0..12 {
            // The boundary comes at other places of the buffer each time.
            let payload = &payload[cut..];
            let body = format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=payload; filename=x\r\n\r\n{payload}\r\n--{boundary}--"
            );
            for len in [7, 64, 1 << 20] {
                let source = Dripping {
                    body: body.as_bytes(),
                    len,
                };
                let (_, file) = read_all(Reader::new(source, boundary), 4096).unwrap();
                assert!(
                    file.as_deref() == Some(payload.as_bytes()),
                    "cut {cut}, reads of {len}"
                );
            }
        }
    }
}

#[test]
fn what_is_left_of_the_file_is_skipped() {
    let body = format!("{}--B--", file_part("payload", &"x".repeat(200_000)));
    let mut reader = Reader::new(body.as_bytes(), "B");
    assert_eq!(
        reader.next(),
        Ok(Part::File {
            name: "payload".into()
        })
    );
    assert_eq!(reader.read(&mut [0; 10]).unwrap(), 10);
    assert_eq!(reader.next(), Ok(Part::End));

    let body = format!("{0}{0}--B--", file_part("payload", "x"));
    let mut reader = Reader::new(body.as_bytes(), "B");
    assert!(reader.next().is_ok());
    assert!(reader.next().unwrap_err().message.contains("a second file"));
}

/// Fails once its bytes have been read.
struct Failing<'a>(&'a [u8], Option<io::Error>);

impl Read for Failing<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            0 => Err(self
                .1
                .take()
                .unwrap_or_else(|| io::Error::other("asked again"))),
            len => Ok(len),
        }
    }
}

#[test]
fn an_error_of_the_source_is_told() {
    let own = Refusal::new(Code::TooLarge, "more than the limit");
    let table = [
        (
            io::Error::from(io::ErrorKind::ConnectionReset),
            Code::UploadBroken,
            "connection reset",
        ),
        (io::Error::other(own), Code::TooLarge, "more than the limit"),
    ];
    for (error, code, part) in table {
        let body = file_part("payload", "x");
        let refusal =
            read_all(Reader::new(Failing(body.as_bytes(), Some(error)), "B"), 9).unwrap_err();
        assert_eq!(refusal.code, code);
        assert!(refusal.message.contains(part), "{refusal}");
    }
}

#[test]
fn what_is_written_is_read() {
    let payload = (0..100_000u32)
        .flat_map(u32::to_le_bytes)
        .collect::<Vec<_>>();
    let mut form = Form::new().unwrap();
    form.field("project", "demo");
    form.field("say \"hi\"\r\n", "two\r\nlines ä");
    let boundary = boundary(&form.content_type()).unwrap();
    let mut body = Vec::new();
    form.file("payload", "a\"b.tar", &*payload)
        .read_to_end(&mut body)
        .unwrap();
    let (fields, file) = read_all(Reader::new(&*body, &boundary), 4096).unwrap();
    assert_eq!(
        fields,
        [
            field("project", "demo"),
            field("say \"hi\"\r\n", "two\r\nlines ä")
        ]
    );
    assert_eq!(file, Some(payload));
    assert_ne!(
        Form::new().unwrap().content_type(),
        Form::new().unwrap().content_type()
    );
}

#[test]
fn an_error_of_a_written_file_is_no_end() {
    let file = Failing(b"abc", Some(io::Error::other("unreadable")));
    let mut body = Vec::new();
    let error = Form::new()
        .unwrap()
        .file("payload", "x", file)
        .read_to_end(&mut body)
        .unwrap_err();
    assert_eq!(error.to_string(), "unreadable");
    assert!(body.ends_with(b"abc"));
}

/// A body whose file is one block again and again.
struct Blocks<'a> {
    head: &'a [u8],
    block: &'a [u8],
    blocks: usize,
    closing: &'a [u8],
    at: usize,
}

impl Read for Blocks<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.head.is_empty() {
            return self.head.read(out);
        }
        if self.blocks == 0 {
            return self.closing.read(out);
        }
        let len = (&self.block[self.at..]).read(out)?;
        self.at += len;
        if self.at == self.block.len() {
            self.at = 0;
            self.blocks -= 1;
        }
        Ok(len)
    }
}

/// Run with `cargo test --release -- --ignored --nocapture throughput`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr)]
fn throughput_of_a_file_part() {
    let mut random = vec![0; 1 << 20];
    getrandom::fill(&mut random).unwrap();
    let near = b"\r\n--gangplank-0123456789abcdef0123456789abcde".repeat(24_000);
    let crlf = b"\r\n--".repeat(1 << 18);
    for (what, block) in [
        ("random", random),
        ("near-boundary", near),
        ("CRLF--", crlf),
    ] {
        let head =
            file_part("payload", "").replace("--B", "--gangplank-0123456789abcdef0123456789abcdef");
        let head = &head.as_bytes()[..head.len() - 2];
        let blocks = (1 << 30) / block.len();
        let closing = b"\r\n--gangplank-0123456789abcdef0123456789abcdef--";
        let mut reader = Reader::new(
            Blocks {
                head,
                block: &block,
                blocks,
                closing,
                at: 0,
            },
            "gangplank-0123456789abcdef0123456789abcdef",
        );
        let begin = std::time::Instant::now();
        assert!(matches!(reader.next(), Ok(Part::File { .. })));
        let mut buffer = vec![0; 1 << 16];
        let mut total = 0;
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => break,
                len => total += len,
            }
        }
        assert_eq!(reader.next(), Ok(Part::End));
        assert_eq!(total, blocks * block.len());
        let gb_s = total as f64 / begin.elapsed().as_secs_f64() / 1e9;
        eprintln!("{what}: {gb_s:.2} GB/s");
    }
}
