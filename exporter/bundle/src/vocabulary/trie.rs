//! A trie of a Unigram model's pieces, as a double array.
//!
//! In: pieces, or the units of a file and a text. Out: units, or the pieces that the text may begin with. Refused:
//! nothing; damaged units lead to no piece or to a wrong one, after at most as many steps as the text has bytes.
//!
//! A unit is a node, and has two numbers. The first says where its children are, or which piece it stands for. The
//! second says whose child it is. A node below which there is one piece is a leaf: the rest of that piece is not in the
//! trie, and the reader compares it with the text.

use std::{collections::VecDeque, ops::Range};

use super::word_at;

/// Marks the first number of a leaf.
pub(super) const LEAF: u32 = 1 << 31;
/// The parent of the root, which is no node.
const NO_NODE: u32 = u32::MAX;

/// The units of pieces that are sorted by their bytes, each with its number.
pub(super) fn build(pieces: &[(&[u8], u32)]) -> Vec<[u32; 2]> {
    let mut units = vec![[0, NO_NODE]];
    let mut first_free = 1;
    // Nodes that have no children yet: the place, the pieces below, and the bytes that lead there.
    let mut open: VecDeque<(usize, Range<usize>, usize)> = VecDeque::from([(0, 0..pieces.len(), 0)]);
    while let Some((node, below, depth)) = open.pop_front() {
        if let [(_, number)] = &pieces[below.clone()] {
            units[node][0] = LEAF | number;
            continue;
        }
        let mut children = Vec::new();
        let mut from = below.start;
        for group in pieces[below].chunk_by(|(a, _), (b, _)| label(a, depth) == label(b, depth)) {
            children.push((label(group[0].0, depth), from..from + group.len()));
            from += group.len();
        }
        let labels: Vec<usize> = children.iter().map(|(label, _)| *label).collect();
        let to = room(&units, &mut first_free, &labels);
        units[node][0] = to as u32;
        for (label, below) in children {
            let child = to + label;
            if child >= units.len() {
                units.resize(child + 1, [0, 0]);
            }
            units[child][1] = node as u32 + 1;
            open.push_back((child, below, depth + 1));
        }
    }
    units
}

/// Where children go: first a piece that ends here, then those that go on with a byte.
fn label(piece: &[u8], depth: usize) -> usize {
    piece.get(depth).map_or(0, |byte| usize::from(*byte) + 1)
}

/// A number whose sums with all labels, which ascend, are places that are free.
fn room(units: &[[u32; 2]], first_free: &mut usize, labels: &[usize]) -> usize {
    let is_free = |at: usize| units.get(at).is_none_or(|unit| unit[1] == 0);
    let Some(least) = labels.first() else { return 0 };
    let start = *least.max(first_free);
    let mut taken = 0;
    let mut at = start;
    while !(is_free(at) && labels.iter().all(|label| is_free(at - least + label))) {
        taken += usize::from(!is_free(at));
        at += 1;
    }
    // Places before this one are not tried again once nearly all of them are taken, or each search would begin there.
    if 20 * taken >= 19 * (at - start) {
        *first_free = at;
    }
    at - least
}

/// The numbers of the pieces that a text may begin with, shortest first. The caller compares the pieces.
pub(super) fn candidates<'a>(units: &'a [u8], text: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
    let mut rest = text.iter();
    let mut next = Some(0);
    std::iter::from_fn(move || {
        loop {
            let node: u32 = next.take()?;
            let [to, _] = unit(units, node)?;
            if to & LEAF != 0 {
                return Some(to & !LEAF);
            }
            let child = |label: u32| {
                let at = to.checked_add(label)?;
                unit(units, at).filter(|[_, parent]| parent.checked_sub(1) == Some(node)).map(|[to, _]| (at, to))
            };
            next = rest.next().and_then(|byte| child(u32::from(*byte) + 1)).map(|(at, _)| at);
            if let Some((_, piece)) = child(0).filter(|(_, to)| to & LEAF != 0) {
                return Some(piece & !LEAF);
            }
        }
    })
}

fn unit(units: &[u8], at: u32) -> Option<[u32; 2]> {
    let at = usize::try_from(at).ok()?.checked_mul(2)?;
    Some([word_at(units, at)?, word_at(units, at + 1)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_the_pieces_that_a_text_begins_with() {
        // All words of up to four of these bytes are texts; a third of them are pieces.
        let bytes = [0, b'a', 0xff];
        let mut texts = vec![Vec::new()];
        for at in 0.. {
            if texts[at].len() == 4 {
                break;
            }
            for byte in bytes {
                texts.push([&texts[at][..], &[byte]].concat());
            }
        }
        for pieces in [vec![], vec![7], (0..texts.len()).step_by(3).collect(), (0..texts.len()).collect()] {
            let mut sorted: Vec<(&[u8], u32)> = pieces.iter().map(|at| (&texts[*at][..], *at as u32)).collect();
            sorted.sort_unstable();
            let units: Vec<u8> = build(&sorted).iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
            for text in &texts {
                let found = candidates(&units, text).filter(|at| text.starts_with(&texts[*at as usize]));
                let mut due: Vec<u32> =
                    pieces.iter().filter(|at| text.starts_with(&texts[**at])).map(|at| *at as u32).collect();
                due.sort_unstable_by_key(|at| texts[*at as usize].len());
                assert_eq!(found.collect::<Vec<_>>(), due, "{text:?} among {} pieces", pieces.len());
            }
        }
    }
}
