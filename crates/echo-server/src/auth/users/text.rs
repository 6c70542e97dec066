//! The file's text. A change writes what it changes, and leaves all else as somebody has written it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use echo_scram::Verifier;
use toml::{Table, Value};
use zeroize::Zeroizing;

use super::{Entry, Users, VERSION, words, zeroize};

const HEAD: &str = "\
# Users of echo-server. `echo-server user` writes this file: allow and quota may be changed by hand.
# It holds no passwords, but what passwords are guessed by: it is nobody else's to read.
";

/// The keys of what proves a password.
const PROOF: [&str; 3] = ["salt", "stored-key", "server-key"];

/// What a user takes at most, in bytes: so that no text grows, which would leave copies of verifiers.
const ENTRY: usize = 2048;

impl Users {
    /// A new file of them.
    pub(super) fn to_text(&self) -> Zeroizing<String> {
        let room = HEAD.len() + ENTRY * (self.users.len() + 1);
        let mut text = Zeroizing::new(String::with_capacity(room));
        let (iterations, secret) = (self.iterations, &*encode(&*self.secret));
        text.push_str(HEAD);
        // A string takes all that is written to it.
        let _ =
            writeln!(text, "version = {VERSION}\niterations = {iterations}\nsecret = \"{secret}\"");
        self.users.values().for_each(|entry| text.push_str(&to_entry(entry)));
        text
    }

    /// What `old`, of which they were read, is to be now. Users whom it writes in a way that is not found make it a new
    /// file.
    pub(super) fn change_text(&self, old: &str) -> Zeroizing<String> {
        let whole = self.to_text();
        let changed = self
            .changed(old)
            .filter(|changed| Self::parse(changed).is_ok_and(|read| *read.to_text() == *whole));
        changed.unwrap_or(whole)
    }

    fn changed(&self, old: &str) -> Option<Zeroizing<String>> {
        let lines: Vec<&str> = old.split_inclusive('\n').collect();
        let heads: Vec<usize> = (0..lines.len()).filter(|at| is_head(lines[*at])).collect();
        let room = old.len() + ENTRY * (self.users.len() + 1);
        let mut new = Zeroizing::new(String::with_capacity(room));
        let mut known = BTreeSet::new();
        let mut done = 0;
        for (index, &head) in heads.iter().enumerate() {
            let end = heads.get(index + 1).copied().unwrap_or(lines.len());
            // What stands behind its last key belongs to the next one, or to nobody.
            let last =
                lines[head..end].iter().rposition(|line| !is_blank(line) && !is_comment(line));
            let end = head + last? + 1;
            let (name, has) = read_entry(&lines[head..end])?;
            if let Some((_, verifier)) = self.users.get(&name) {
                lines[done..head].iter().for_each(|line| new.push_str(line));
                let proof = verifier.as_ref().map_or_else(Zeroizing::default, to_proof);
                match has == proof {
                    true => lines[head..end].iter().for_each(|line| new.push_str(line)),
                    false => push_with_proof(&mut new, &lines[head..end], &proof),
                }
            } else {
                // With the comments right over it, and the blank lines over those.
                let over = |begin: usize, goes: fn(&str) -> bool| {
                    let stays = lines[done..begin].iter().rposition(|line| !goes(line));
                    stays.map_or(done, |it| done + it + 1)
                };
                let begin = over(over(head, is_comment), is_blank);
                lines[done..begin].iter().for_each(|line| new.push_str(line));
            }
            done = end;
            known.insert(name);
        }
        lines[done..].iter().for_each(|line| new.push_str(line));
        if !new.ends_with('\n') {
            new.push('\n');
        }
        let added = self.users.iter().filter(|(name, _)| !known.contains(*name));
        added.for_each(|(_, entry)| new.push_str(&to_entry(entry)));
        Some(new)
    }
}

fn encode(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(bytes))
}

fn to_entry((user, verifier): &Entry) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(ENTRY));
    let name = Value::from(user.name.as_str());
    let allow: Vec<_> = words(user.allow).map(|word| format!("\"{word}\"")).collect();
    let quota = user.quota.map_or_else(String::new, |it| format!("quota = {it}\n"));
    let allow = allow.join(", ");
    // A string takes all that is written to it.
    let _ = write!(text, "\n[[user]]\nname = {name}\nallow = [{allow}]\n{quota}");
    verifier.iter().for_each(|verifier| text.push_str(&to_proof(verifier)));
    text
}

fn to_proof(verifier: &Verifier) -> Zeroizing<String> {
    let values =
        [encode(verifier.salt()), encode(verifier.stored_key()), encode(verifier.server_key())];
    proof_of(values.iter().map(|value| value.as_str()))
}

fn proof_of<'a>(values: impl Iterator<Item = &'a str>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(ENTRY));
    for (key, value) in PROOF.iter().zip(values) {
        // A string takes all that is written to it.
        let _ = writeln!(text, "{key} = \"{value}\"");
    }
    text
}

/// Whose entry it is, and the lines that prove a password, as they would be written.
fn read_entry(lines: &[&str]) -> Option<(String, Zeroizing<String>)> {
    let text = Zeroizing::new(lines.concat());
    let mut table: Table = text.parse().ok()?;
    let read = table.get("user").and_then(|users| {
        let user = users.get(0)?;
        let name = user.get("name")?.as_str()?.to_owned();
        Some((name, proof_of(PROOF.iter().filter_map(|key| user.get(key)?.as_str()))))
    });
    table.iter_mut().for_each(|(_, value)| zeroize(value));
    read
}

/// An entry with these lines where it had such, or at its end.
fn push_with_proof(new: &mut String, lines: &[&str], proof: &str) {
    let proves = |line: &&str| PROOF.contains(&line.split('=').next().unwrap_or_default().trim());
    let place = lines.iter().position(proves).unwrap_or(lines.len());
    lines[..place].iter().for_each(|line| new.push_str(line));
    if !new.ends_with('\n') {
        new.push('\n');
    }
    new.push_str(proof);
    lines[place..].iter().filter(|line| !proves(line)).for_each(|line| new.push_str(line));
}

fn is_head(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default();
    line.chars().filter(|it| !it.is_whitespace()).eq("[[user]]".chars())
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn is_blank(line: &str) -> bool {
    line.trim().is_empty()
}
