//! Prefers nodes that have the pod's images already; large images count more, and an image few
//! nodes have counts less, so that pods do not heap up where the first one was.

use crate::server::scheduler::{
    framework::{SCORE_MAX, Score},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

/// Below it an image is pulled in no time (`imagelocality.minThreshold`).
const BYTES_MIN: i64 = 23 << 20;
/// Above it more makes no difference, for each container.
const BYTES_MAX_PER_CONTAINER: i64 = 1000 << 20;

struct ImageLocality<'a> {
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
}

/// For pods of which some node has an image.
pub(crate) fn score<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
    let known = |image: &String| snapshot.nodes_with_image(&normalized(image)) > 0;
    pod.images
        .iter()
        .any(known)
        .then(|| Box::new(ImageLocality { pod, snapshot }) as _)
}

impl Score for ImageLocality<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let nodes = self.snapshot.known().max(1) as f64;
        let bytes = self.pod.images.iter().map(|image| {
            let image = normalized(image);
            let size = node.images.get(&image).copied().unwrap_or(0);
            let spread = self.snapshot.nodes_with_image(&image) as f64 / nodes;
            (size as f64 * spread) as i64
        });
        let containers = i64::try_from(self.pod.images.len()).unwrap_or(1);
        let most = BYTES_MAX_PER_CONTAINER * containers;
        let bytes = bytes.sum::<i64>().clamp(BYTES_MIN, most);
        SCORE_MAX * (bytes - BYTES_MIN) / (most - BYTES_MIN)
    }
}

/// With the tag that is meant where there is none.
fn normalized(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}
