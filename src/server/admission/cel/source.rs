//! Expressions as the interpreter can read them: what Kubernetes' CEL has and the crate has not is
//! said in other words, and what would stop it is refused.
//!
//! - `Object.spec.template{replicas: 1}` and `JSONPatch{op: "test"}` become maps: the types of
//!   mutations are known by where they stand.
//! - `a.?b` becomes `a[?"b"]`, which is the same and not an error where `b` is missing.

/// One token; comments and white space go with the token before.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    /// A string literal, whole, with its prefix.
    Text(&'a str),
    /// Anything else, one character.
    Sign(&'a str),
    Space(&'a str),
}

/// The expression rewritten, or why it cannot be evaluated.
pub(super) fn rewrite(source: &str) -> Result<String, String> {
    let tokens = tokens(source);
    let mut out = String::with_capacity(source.len() + 16);
    // For each open brace: whether its keys are fields of a type.
    let mut braces: Vec<bool> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token {
            Token::Word(word) if is_type(word) => {
                if let Some(end) = construction(&tokens, at) {
                    out.push('{');
                    braces.push(true);
                    at = end;
                    continue;
                }
                out.push_str(word);
            }
            Token::Word(word) => {
                let is_field = braces.last() == Some(&true) && is_key(&tokens, at);
                match is_field {
                    true => out.push_str(&format!("\"{word}\"")),
                    false => out.push_str(word),
                }
                if next(&tokens, at) == Some(Token::Sign("{")) && !is_reserved(word) {
                    return Err(format!(
                        "undeclared reference to '{word}' (in container '')"
                    ));
                }
            }
            Token::Sign("{") => {
                braces.push(false);
                out.push('{');
            }
            Token::Sign("}") => {
                braces.pop();
                out.push('}');
            }
            Token::Sign(".") => {
                if let Some((name, end)) = optional_field(&tokens, at) {
                    out.push_str(&format!("[?\"{name}\"]"));
                    at = end;
                    continue;
                }
                out.push('.');
            }
            Token::Sign(text) | Token::Text(text) | Token::Space(text) => out.push_str(text),
        }
        at += 1;
    }
    Ok(out)
}

fn is_type(word: &str) -> bool {
    matches!(word, "Object" | "JSONPatch")
}

/// `in {…}` is no construction of an `in`.
fn is_reserved(word: &str) -> bool {
    word == "in"
}

/// Where `Object.a.b{` beginning at `start` ends: behind its brace. `None`: it is none.
fn construction(tokens: &[Token<'_>], start: usize) -> Option<usize> {
    // `x.Object` is a field.
    let before = tokens[..start].iter().rev();
    let mut before = before.filter(|token| !matches!(token, Token::Space(_)));
    if before.next() == Some(&Token::Sign(".")) {
        return None;
    }
    let mut at = start + 1;
    loop {
        match tokens.get(at)? {
            Token::Space(_) | Token::Sign(".") | Token::Word(_) => at += 1,
            Token::Sign("{") => return Some(at + 1),
            _ => return None,
        }
    }
}

/// Name and end of `.?name` beginning at `start`.
fn optional_field<'a>(tokens: &[Token<'a>], start: usize) -> Option<(&'a str, usize)> {
    match tokens.get(start + 1..start + 3)? {
        [Token::Sign("?"), Token::Word(name)] => Some((name, start + 3)),
        _ => None,
    }
}

fn next<'a>(tokens: &[Token<'a>], at: usize) -> Option<Token<'a>> {
    let mut rest = tokens.get(at + 1..)?.iter();
    rest.find(|token| !matches!(token, Token::Space(_)))
        .copied()
}

/// Whether the word is what a value is given to: `{word:` or `, word:`, also `?word:`.
fn is_key(tokens: &[Token<'_>], at: usize) -> bool {
    let before = tokens[..at].iter().rev();
    let mut before = before.filter(|t| !matches!(t, Token::Space(_) | Token::Sign("?")));
    let opens = matches!(before.next(), Some(Token::Sign("{" | ",")));
    opens && next(tokens, at) == Some(Token::Sign(":"))
}

fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (token, len) = if let Some(len) = text_len(rest) {
            (Token::Text(&rest[..len]), len)
        } else if rest.starts_with("//") {
            let len = rest.find('\n').unwrap_or(rest.len());
            // A comment is not needed any more, and the interpreter may not know it.
            (Token::Space(" "), len)
        } else if first.is_whitespace() {
            let len = rest
                .find(|c: char| !c.is_whitespace())
                .unwrap_or(rest.len());
            (Token::Space(&rest[..len]), len)
        } else if first.is_alphanumeric() || first == '_' {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            (Token::Word(&rest[..len]), len)
        } else {
            (Token::Sign(&rest[..first.len_utf8()]), first.len_utf8())
        };
        tokens.push(token);
        rest = &rest[len..];
    }
    tokens
}

/// Length of the string literal `text` begins with.
fn text_len(text: &str) -> Option<usize> {
    let prefix = text.find(['"', '\''])?;
    let is_prefix = |c: char| matches!(c, 'r' | 'R' | 'b' | 'B');
    if prefix > 2 || !text[..prefix].chars().all(is_prefix) {
        return None;
    }
    let is_raw = text[..prefix].contains(['r', 'R']);
    let body = &text[prefix..];
    let quote = body.get(..1)?;
    let triple = quote.repeat(3);
    let (end, open) = match body.starts_with(&triple) {
        true => (triple.as_str(), 3),
        false => (quote, 1),
    };
    let mut at = open;
    while at < body.len() {
        if body[at..].starts_with(end) {
            return Some(prefix + at + end.len());
        }
        let mut chars = body[at..].chars();
        let first = chars.next()?;
        at += first.len_utf8();
        if first == '\\' && !is_raw {
            at += chars.next().map_or(0, char::len_utf8);
        }
    }
    // Not closed: the parser says so better.
    Some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_objects_become_maps_and_optional_fields_indexes() {
        let table = [
            ("object.spec.x > 1", "object.spec.x > 1"),
            (
                "Object{spec: Object.spec{replicas: 1, a: {'b': c}}}",
                "{\"spec\": {\"replicas\": 1, \"a\": {'b': c}}}",
            ),
            (
                "[JSONPatch{op: \"add\", path: \"/x{y:\", value: Object.spec{ a: x.y }}]",
                "[{\"op\": \"add\", \"path\": \"/x{y:\", \"value\": { \"a\": x.y }}]",
            ),
            (
                "object.?spec.?x.orValue(1) == (a ? b : c)",
                "object[?\"spec\"][?\"x\"].orValue(1) == (a ? b : c)",
            ),
            ("Object{?a: b[?'c']}", "{?\"a\": b[?'c']}"),
            ("x in {'a': 1}", "x in {'a': 1}"),
            ("self.Object == r'\\' // Object{", "self.Object == r'\\'  "),
            ("Object{a: b ? c : d}", "{\"a\": b ? c : d}"),
        ];
        for (source, rewritten) in table {
            assert_eq!(rewrite(source).as_deref(), Ok(rewritten), "{source}");
        }
    }

    #[test]
    fn unknown_types_are_refused_and_rubbish_does_no_harm() {
        assert_eq!(
            rewrite("Foo{a: 1}").unwrap_err(),
            "undeclared reference to 'Foo' (in container '')"
        );
        for rubbish in [
            "\"", "'''a", "Object.", ".?", "}}}", "r\"\\", "b'", "ü{", "//",
        ] {
            let _ = rewrite(rubbish);
        }
    }
}
