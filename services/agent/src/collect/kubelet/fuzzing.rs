//! What the fuzz targets call: the parsers of the kubelet's answers.

use std::sync::Arc;

use super::cadvisor::Cadvisor;
use super::items::{Items, LabelSets};
use super::splitter::Splitter;
use super::summary::{NodeMetrics, Summary};
use super::{annotated, mounts, pods};

/// More series than any input gives.
const MAX_SERIES: usize = 1 << 20;

/// The batches of one `/stats/summary`, each the items of a JSON array.
pub fn summary(document: &[u8], piece_bytes: usize) -> Vec<String> {
    let node_metrics = NodeMetrics { network: true, filesystem: true };
    let mut summary = Summary::new(node_metrics, Arc::default(), mounts::parse(&String::from_utf8_lossy(document)));
    split(document, piece_bytes, |member, object, items, labels| summary.read(member, object, items, labels))
}

/// The batches of one `/pods`, likewise.
pub fn pods(document: &[u8], piece_bytes: usize) -> Vec<String> {
    split(document, piece_bytes, |member, object, items, labels| {
        pods::read(member, object, items, labels);
        let _ = annotated::parse(object);
    })
}

/// The batches of one `/metrics/cadvisor`, likewise.
pub fn cadvisor(text: &[u8], piece_bytes: usize) -> Vec<String> {
    let (mut cadvisor, mut items, mut labels) = (Cadvisor::default(), Items::default(), LabelSets::default());
    text.chunks(piece_bytes).for_each(|piece| cadvisor.read(piece));
    cadvisor.write(&mut items, &mut labels);
    batches(&mut items)
}

fn split(document: &[u8], piece_bytes: usize, mut read: impl FnMut(&str, &[u8], &mut Items, &mut LabelSets)) -> Vec<String> {
    let (mut splitter, mut items, mut labels) = (Splitter::default(), Items::default(), LabelSets::default());
    let mut found = |member: &str, object: &[u8]| read(member, object, &mut items, &mut labels);
    for piece in document.chunks(piece_bytes) {
        if splitter.read(piece, &mut found).is_err() {
            break;
        }
    }
    batches(&mut items)
}

fn batches(items: &mut Items) -> Vec<String> {
    items.batches(MAX_SERIES).into_iter().map(|batch| batch.text).collect()
}
