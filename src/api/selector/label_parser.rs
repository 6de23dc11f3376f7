//! The grammar of label selectors in query strings, token by token as upstream's
//! `labels.Parser`, because its error texts show through.

use super::label::{Error, Operator, Requirement, check_key};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    Identifier,
    Comma,
    Open,
    Close,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

/// All requirements of `text`, in the order written.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, Error> {
    let mut parser = Parser {
        tokens: scan(text),
        at: 0,
    };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            (Token::Identifier | Token::Not, _) => {}
            (Token::End, _) => return Ok(requirements),
            (_, found) => {
                return fail(format!(
                    "found '{found}', expected: !, identifier, or 'end of string'"
                ));
            }
        }
        let requirement = parser
            .requirement()
            .map_err(|Error(why)| Error(format!("unable to parse requirement: {why}")))?;
        requirements.push(requirement);
        match parser.next() {
            (Token::End, _) => return Ok(requirements),
            (Token::Comma, _) => match parser.peek() {
                (Token::Identifier | Token::Not, _) => {}
                (_, found) => {
                    return fail(format!("found '{found}', expected: identifier after ','"));
                }
            },
            (_, found) => {
                return fail(format!("found '{found}', expected: ',' or 'end of string'"));
            }
        }
    }
}

fn fail<T>(why: String) -> Result<T, Error> {
    Err(Error(why))
}

impl<'a> Parser<'a> {
    /// The token here as an operator: `in` and `notin` are words of their own.
    fn peek_operator(&self) -> (Token, &'a str) {
        self.tokens
            .get(self.at)
            .copied()
            .unwrap_or((Token::End, ""))
    }

    /// The token here as a key or value: `in` and `notin` are identifiers.
    fn peek(&self) -> (Token, &'a str) {
        match self.peek_operator() {
            (Token::In | Token::NotIn, text) => (Token::Identifier, text),
            other => other,
        }
    }

    fn next(&mut self) -> (Token, &'a str) {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, Error> {
        let (mut token, mut key) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return fail(format!("found '{key}', expected: identifier"));
        }
        check_key(key)?;
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, Error> {
        let (token, text) = self.peek_operator();
        self.at += 1;
        match token {
            Token::In => Ok(Operator::In),
            Token::NotIn => Ok(Operator::NotIn),
            Token::Equals | Token::DoubleEquals => Ok(Operator::Equals),
            Token::NotEquals => Ok(Operator::NotEquals),
            Token::Greater => Ok(Operator::GreaterThan),
            Token::Less => Ok(Operator::LessThan),
            _ => fail(format!(
                "found '{text}', expected: in, notin, =, ==, !=, gt, lt"
            )),
        }
    }

    fn exact_value(&mut self) -> Result<String, Error> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            (Token::Identifier, value) => Ok(value.to_owned()),
            (_, found) => fail(format!("found '{found}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, Error> {
        match self.next() {
            (Token::Open, _) => {}
            (_, found) => return fail(format!("found '{found}' expected: '('")),
        }
        match self.peek() {
            (Token::Identifier | Token::Comma, _) => {}
            (Token::Close, _) => {
                self.at += 1;
                return Ok(Vec::new());
            }
            (_, found) => {
                return fail(format!("found '{found}', expected: ',', ')' or identifier"));
            }
        }
        let mut values = Vec::new();
        let mut after_comma = true;
        loop {
            match self.next() {
                (Token::Identifier, value) if after_comma => {
                    values.push(value.to_owned());
                    after_comma = false;
                }
                (Token::Identifier, found) => {
                    return fail(format!("found '{found}', expected: ',' or ')'"));
                }
                // A missing value between commas or brackets is the empty value.
                (Token::Comma, _) if after_comma => values.push(String::new()),
                (Token::Comma, _) => after_comma = true,
                (Token::Close, _) => {
                    if after_comma {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                (_, found) => {
                    return fail(format!("found '{found}', expected: ',', or identifier"));
                }
            }
        }
    }
}

fn scan(text: &str) -> Vec<(Token, &str)> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (token, len) = scan_one(rest);
        tokens.push((token, &rest[..len]));
        rest = rest[len..].trim_start();
    }
    tokens
}

/// The token at the start of `rest`, which is not empty and does not start with a space.
fn scan_one(rest: &str) -> (Token, usize) {
    const SYMBOLS: [(&str, Token); 9] = [
        ("!=", Token::NotEquals),
        ("==", Token::DoubleEquals),
        ("=", Token::Equals),
        ("!", Token::Not),
        ("(", Token::Open),
        (")", Token::Close),
        (",", Token::Comma),
        (">", Token::Greater),
        ("<", Token::Less),
    ];
    let symbol = SYMBOLS.iter().find(|(text, _)| rest.starts_with(text));
    if let Some((text, token)) = symbol {
        return (*token, text.len());
    }
    let is_end = |c: char| c.is_whitespace() || "!=(),<>".contains(c);
    let len = rest.find(is_end).unwrap_or(rest.len());
    match &rest[..len] {
        "in" => (Token::In, len),
        "notin" => (Token::NotIn, len),
        _ => (Token::Identifier, len),
    }
}
