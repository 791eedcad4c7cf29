//! Tokens of PTX text, made on demand. A lexer is three words; looking ahead is running a copy.

use super::SyntaxError;

/// A token; text borrows the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token<'a> {
    /// An identifier or number-free word, with its leading `%`, `$` or `_`.
    Word(&'a str),
    /// `.word`, without the dot; may hold `::`.
    Dot(&'a str),
    /// An integer literal, two's complement.
    Int(u64),
    /// `0f…`
    F32(u32),
    /// `0d…` or a decimal fraction.
    F64(u64),
    /// A string without its quotes.
    Text(&'a str),
    /// Any other character.
    Mark(u8),
    /// The end of the text.
    End,
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Token::Word(text) => write!(f, "`{}`", short(text)),
            Token::Dot(text) => write!(f, "`.{}`", short(text)),
            Token::Int(value) => write!(f, "`{}`", *value as i64),
            Token::F32(bits) => write!(f, "`0f{bits:08X}`"),
            Token::F64(bits) => write!(f, "`0d{bits:016X}`"),
            Token::Text(text) => write!(f, "\"{}\"", short(text)),
            Token::Mark(mark) => write!(f, "`{}`", char::from(*mark).escape_default()),
            Token::End => write!(f, "the end of the text"),
        }
    }
}

/// The start of a text that may be long.
fn short(text: &str) -> &str {
    match text.char_indices().nth(60) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// A position in PTX text.
#[derive(Clone)]
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'a> Lexer<'a> {
    /// A lexer at the start of `text`.
    pub fn new(text: &'a str) -> Lexer<'a> {
        Lexer {
            text,
            at: 0,
            line: 1,
        }
    }

    /// Line of the token that was read last, from 1.
    pub fn line(&self) -> u32 {
        self.line
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.text
            .as_bytes()
            .get(self.at + ahead)
            .copied()
            .unwrap_or(0)
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError {
            line: self.line,
            message: message.into(),
        }
    }

    /// The end of the run of bytes that satisfy `f`, from `at`.
    fn run(&self, at: usize, f: impl Fn(u8) -> bool) -> usize {
        let bytes = self.text.as_bytes();
        let mut end = at;
        while end < bytes.len() && f(bytes[end]) {
            end += 1;
        }
        end
    }

    fn skip_blanks(&mut self) -> Result<(), SyntaxError> {
        loop {
            match (self.byte(0), self.byte(1)) {
                (b'\n', _) => {
                    self.line += 1;
                    self.at += 1;
                }
                (b' ' | b'\t' | b'\r' | 0x0b | 0x0c, _) => self.at += 1,
                (b'/', b'/') => self.at = self.run(self.at, |b| b != b'\n'),
                (b'/', b'*') => {
                    let body = &self.text[self.at + 2..];
                    let Some(length) = body.find("*/") else {
                        return Err(self.error("a comment is never closed"));
                    };
                    self.line += body[..length].matches('\n').count() as u32;
                    self.at += length + 4;
                }
                _ => return Ok(()),
            }
        }
    }

    /// The next token.
    ///
    /// # Errors
    /// An unclosed comment or string, a malformed number, a character outside ASCII.
    pub fn advance(&mut self) -> Result<Token<'a>, SyntaxError> {
        self.skip_blanks()?;
        if self.at >= self.text.len() {
            return Ok(Token::End);
        }
        let start = self.at;
        let first = self.byte(0);
        match first {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | b'%' => {
                self.at = self.run(start + 1, is_word);
                Ok(Token::Word(&self.text[start..self.at]))
            }
            b'.' if is_word(self.byte(1)) => {
                let mut end = self.run(start + 1, is_word);
                while self.text.as_bytes()[end..].starts_with(b"::") {
                    end = self.run(end + 2, is_word);
                }
                self.at = end;
                Ok(Token::Dot(&self.text[start + 1..end]))
            }
            b'0'..=b'9' => self.number(),
            b'"' => {
                let end = self.run(start + 1, |b| b != b'"');
                if end >= self.text.len() {
                    return Err(self.error("a string is never closed"));
                }
                let text = &self.text[start + 1..end];
                self.line += text.matches('\n').count() as u32;
                self.at = end + 1;
                Ok(Token::Text(text))
            }
            0x21..=0x7e => {
                self.at += 1;
                Ok(Token::Mark(first))
            }
            _ => Err(self.error(format!("unexpected character (byte {first:#04x})"))),
        }
    }

    /// Digits and dots as they stand: in `9.10`, unlike in a number, the last zero counts.
    ///
    /// # Errors
    /// An unclosed comment.
    pub fn version(&mut self) -> Result<&'a str, SyntaxError> {
        self.skip_blanks()?;
        let start = self.at;
        self.at = self.run(start, |b| b.is_ascii_digit() || b == b'.');
        Ok(&self.text[start..self.at])
    }

    fn number(&mut self) -> Result<Token<'a>, SyntaxError> {
        let start = self.at;
        let end = self.run(start, is_word);
        let word = &self.text[start..end];
        let bad = |lexer: &Self, end: usize| {
            lexer.error(format!(
                "malformed number `{}`",
                short(&lexer.text[start..end])
            ))
        };
        if let Some(hex) = word.strip_prefix("0f").or_else(|| word.strip_prefix("0F")) {
            self.at = end;
            return match u32::from_str_radix(hex, 16) {
                Ok(bits) if hex.len() == 8 => Ok(Token::F32(bits)),
                _ => Err(bad(self, end)),
            };
        }
        if let Some(hex) = word.strip_prefix("0d").or_else(|| word.strip_prefix("0D")) {
            self.at = end;
            return match u64::from_str_radix(hex, 16) {
                Ok(bits) if hex.len() == 16 => Ok(Token::F64(bits)),
                _ => Err(bad(self, end)),
            };
        }
        let hexadecimal = word.starts_with("0x") || word.starts_with("0X");
        let exponent = !hexadecimal && word.contains(['e', 'E']);
        let fraction = !hexadecimal
            && self.text.as_bytes().get(end) == Some(&b'.')
            && self
                .text
                .as_bytes()
                .get(end + 1)
                .is_some_and(u8::is_ascii_digit);
        if exponent || fraction {
            return self.decimal(start);
        }
        self.at = end;
        let digits = word.trim_end_matches(['U', 'u']);
        let value = if let Some(hex) = digits
            .strip_prefix("0x")
            .or_else(|| digits.strip_prefix("0X"))
        {
            u64::from_str_radix(hex, 16)
        } else if let Some(binary) = digits
            .strip_prefix("0b")
            .or_else(|| digits.strip_prefix("0B"))
        {
            u64::from_str_radix(binary, 2)
        } else if digits.len() > 1 && digits.starts_with('0') {
            u64::from_str_radix(&digits[1..], 8)
        } else {
            digits.parse()
        };
        value.map(Token::Int).map_err(|_| bad(self, end))
    }

    fn decimal(&mut self, start: usize) -> Result<Token<'a>, SyntaxError> {
        let mut end = self.run(start, |b| b.is_ascii_digit() || b == b'.');
        if matches!(self.text.as_bytes().get(end), Some(b'e' | b'E')) {
            let sign = matches!(self.text.as_bytes().get(end + 1), Some(b'+' | b'-'));
            end = self.run(end + 1 + usize::from(sign), |b| b.is_ascii_digit());
        }
        self.at = end;
        let text = &self.text[start..end];
        match text.parse::<f64>() {
            Ok(value) => Ok(Token::F64(value.to_bits())),
            Err(_) => Err(self.error(format!("malformed number `{}`", short(text)))),
        }
    }
}
