//! One frame: an answer as bytes.

use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

use crate::clock::{self, Timestamp};
use crate::snapshot::{AccountId, Answer, Body, Origin, Poll, Source};

/// Begins every frame. `F5` stands in no UTF-8 text.
pub(super) const MARKER: &[u8; 4] = b"\xF5dxF";

/// Marker, two lengths, checksum.
const PREFIX: usize = 4 + 4 + 4 + 8;

/// An answer without its bodies. Fields are only ever added, with a default.
#[derive(Serialize, Deserialize)]
struct Header {
    account_id: AccountId,
    sweep_id: String,
    source: Source,
    #[serde(with = "clock::rfc3339")]
    collected_at: Timestamp,
    bodies: Vec<BodyHeader>,
    poll: Option<Poll>,
}

#[derive(Serialize, Deserialize)]
struct BodyHeader {
    length: usize,
    /// The file that it comes from, where that is another than the body's before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
}

/// Appends an answer's frame to `out`. `None`, and nothing appended, where it is too long for one.
pub(super) fn encode(answer: &Answer, out: &mut Vec<u8>) -> Option<()> {
    let header = serde_json::to_vec(&Header::new(answer)).ok()?;
    let bodies = answer.bodies.iter().map(|body| body.bytes.len()).sum::<usize>();
    let lengths = [u32::try_from(header.len()).ok()?.to_le_bytes(), u32::try_from(bodies).ok()?.to_le_bytes()].concat();
    let start = out.len() + PREFIX;
    out.extend_from_slice(MARKER);
    out.extend_from_slice(&lengths);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&header);
    answer.bodies.iter().for_each(|body| out.extend_from_slice(&body.bytes));
    let checksum = checksum(&lengths, &out[start..]).to_le_bytes();
    out[start - 8..start].copy_from_slice(&checksum);
    Some(())
}

/// Reads the frame that `bytes` begins with: the answer, and the frame's length. `None` where there is none, or not all
/// of it, or not as it was written. The bodies stay where they are in memory.
pub(super) fn decode(bytes: &Bytes) -> Option<(Answer, usize)> {
    let (prefix, rest) = bytes.split_at_checked(PREFIX)?;
    let (marker, prefix) = prefix.split_at(MARKER.len());
    let (lengths, sum) = prefix.split_at(8);
    let header_length = usize::try_from(u32::from_le_bytes(lengths[..4].try_into().ok()?)).ok()?;
    let bodies_length = usize::try_from(u32::from_le_bytes(lengths[4..].try_into().ok()?)).ok()?;
    let content = rest.get(..header_length.checked_add(bodies_length)?)?;
    // Before all of it is hashed: a marker that stands in a body by chance is found out cheaply.
    let header = content.get(..header_length)?;
    if !(header.starts_with(b"{") && header.ends_with(b"}")) {
        return None;
    }
    if marker != MARKER || checksum(lengths, content).to_le_bytes() != *sum {
        return None;
    }
    let header: Header = serde_json::from_slice(header).ok()?;
    let end = PREFIX + content.len();
    Some((header.into_answer(bytes.slice(PREFIX + header_length..end))?, end))
}

impl Header {
    fn new(answer: &Answer) -> Self {
        let mut last = None;
        let of = |body: &Body| {
            let file = body.origin.as_ref().map(|origin| &origin.file);
            let is_new = file.is_some() && file != last.as_ref();
            last = file.or(last.as_ref()).cloned();
            let line = body.origin.as_ref().map(|origin| origin.line);
            BodyHeader { length: body.bytes.len(), file: file.filter(|_| is_new).cloned(), line }
        };
        let bodies = answer.bodies.iter().map(of).collect();
        Self {
            account_id: answer.account_id.clone(),
            sweep_id: answer.sweep_id.clone(),
            source: answer.source,
            collected_at: answer.collected_at,
            bodies,
            poll: answer.poll.clone(),
        }
    }

    fn into_answer(self, mut bytes: Bytes) -> Option<Answer> {
        let mut bodies = Vec::with_capacity(self.bodies.len());
        let mut last = None;
        for BodyHeader { length, file, line } in self.bodies {
            if length > bytes.len() {
                return None;
            }
            last = file.or(last);
            let origin = last.clone().zip(line).map(|(file, line)| Origin { file, line });
            bodies.push(Body { bytes: bytes.split_to(length), origin });
        }
        let Self { account_id, sweep_id, source, collected_at, poll, .. } = self;
        bytes.is_empty().then_some(Answer { account_id, sweep_id, source, collected_at, bodies, poll })
    }
}

fn checksum(lengths: &[u8], content: &[u8]) -> u64 {
    let mut hash = XxHash64::with_seed(0);
    hash.write(lengths);
    hash.write(content);
    hash.finish()
}
