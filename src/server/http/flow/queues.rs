//! Fair queues of one priority level: who may run, who waits, who is turned away. Pure.
//!
//! A *flow* is what one user (or namespace) sends through one FlowSchema. Each flow has a *hand* of
//! a few queues, dealt by its hash (shuffle sharding): a flood fills its own hand and leaves most
//! other flows at least one queue that it is not in. Of the queues that wait, the one with the
//! fewest requests running goes next, then the one that was served longest ago.

use std::collections::VecDeque;

/// Who is waiting, by number.
pub(super) type Ticket = u64;

/// The shape of a level's queues (`limitResponse.queuing`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// How many queues.
    pub(super) queues: usize,
    /// How many of them a flow is dealt.
    pub(super) hand: usize,
    /// How many requests one queue holds.
    pub(super) length_max: usize,
}

/// What becomes of a request that comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It runs, counted in this queue.
    Runs(usize),
    /// It waits in this queue.
    Waits(usize),
    /// Its queues are full.
    Full,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Ticket>,
    running: usize,
    /// The turn at which it was last served.
    served: u64,
}

/// The queues of one level.
#[derive(Debug)]
pub(super) struct Queues {
    shape: Shape,
    queues: Vec<Queue>,
    turn: u64,
    running: usize,
}

impl Queues {
    pub(super) fn new(shape: Shape) -> Self {
        let mut queues = Vec::new();
        queues.resize_with(shape.queues.max(1), Queue::default);
        Self {
            shape,
            queues,
            turn: 0,
            running: 0,
        }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn running(&self) -> usize {
        self.running
    }

    pub(super) fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiting.len()).sum()
    }

    /// A request of the flow with hash `flow`, where `seats` may run at a time.
    pub(super) fn arrive(&mut self, ticket: Ticket, flow: u64, seats: usize) -> Arrival {
        let at = self.choose(flow);
        if self.running < seats && self.queues[at].waiting.is_empty() {
            self.run(at);
            return Arrival::Runs(at);
        }
        let queue = &mut self.queues[at];
        if queue.waiting.len() >= self.shape.length_max {
            return Arrival::Full;
        }
        queue.waiting.push_back(ticket);
        Arrival::Waits(at)
    }

    /// One that ran in queue `at` is done.
    pub(super) fn done(&mut self, at: usize) {
        self.running = self.running.saturating_sub(1);
        if let Some(queue) = self.queues.get_mut(at) {
            queue.running = queue.running.saturating_sub(1);
        }
    }

    /// One that waited in queue `at` no longer wants to.
    pub(super) fn leave(&mut self, ticket: Ticket, at: usize) {
        if let Some(queue) = self.queues.get_mut(at) {
            queue.waiting.retain(|waiting| *waiting != ticket);
        }
    }

    /// The next that may run, where there is room.
    pub(super) fn next(&mut self, seats: usize) -> Option<Ticket> {
        if self.running >= seats {
            return None;
        }
        let waiting = self.queues.iter().enumerate();
        let waiting = waiting.filter(|(_, queue)| !queue.waiting.is_empty());
        let (at, _) = waiting.min_by_key(|(_, queue)| (queue.running, queue.served))?;
        let ticket = self.queues[at].waiting.pop_front();
        self.run(at);
        ticket
    }

    fn run(&mut self, at: usize) {
        self.turn += 1;
        self.running += 1;
        let queue = &mut self.queues[at];
        queue.running += 1;
        queue.served = self.turn;
    }

    /// Of the flow's hand the queue with the least in it.
    fn choose(&self, flow: u64) -> usize {
        let load = |at: &usize| {
            let queue = &self.queues[*at];
            queue.waiting.len() + queue.running
        };
        deal(flow, self.queues.len(), self.shape.hand)
            .into_iter()
            .min_by_key(load)
            .unwrap_or_default()
    }
}

/// `hand` different numbers below `deck`, by the digits of `hash` in a falling base.
fn deal(mut hash: u64, deck: usize, hand: usize) -> Vec<usize> {
    let mut cards: Vec<usize> = Vec::with_capacity(hand);
    for dealt in 0..hand.clamp(1, deck) {
        let left = (deck - dealt) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // The card counts only what is left of the deck.
        let mut taken = cards.clone();
        taken.sort_unstable();
        for other in taken {
            if other <= card {
                card += 1;
            }
        }
        cards.push(card);
    }
    cards
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SHAPE: Shape = Shape {
        queues: 64,
        hand: 6,
        length_max: 50,
    };

    #[test]
    fn a_hand_has_different_queues_and_depends_on_the_flow() {
        let mut hands = BTreeSet::new();
        for flow in 0..200_u64 {
            let flow = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let hand = deal(flow, 64, 6);
            let unique: BTreeSet<_> = hand.iter().copied().collect();
            assert_eq!(unique.len(), 6);
            assert!(unique.iter().all(|card| *card < 64));
            hands.insert(unique);
        }
        assert!(hands.len() > 190);
        assert_eq!(deal(9, 1, 6), [0]);
    }

    #[test]
    fn a_flood_of_one_flow_starves_nobody() {
        let mut queues = Queues::new(SHAPE);
        let (flood, other) = (0xdead_beef_0123_4567, 0x0123_4567_89ab_cdef);
        let mut ticket = 0;
        let mut arrive = |queues: &mut Queues, flow| {
            ticket += 1;
            (ticket, queues.arrive(ticket, flow, 10))
        };
        let mut full = 0;
        let mut ran = Vec::new();
        for _ in 0..1000 {
            match arrive(&mut queues, flood).1 {
                Arrival::Runs(at) => ran.push(at),
                Arrival::Full => full += 1,
                Arrival::Waits(_) => {}
            }
        }
        // Ten run, the hand is full, the rest is turned away.
        assert_eq!((ran.len(), queues.waiting(), full), (10, 300, 690));
        // Somebody else waits for the next free seat only.
        let (theirs, Arrival::Waits(_)) = arrive(&mut queues, other) else {
            panic!("no seat is free");
        };
        queues.done(ran[0]);
        assert_eq!(queues.next(10), Some(theirs));
        assert_eq!(queues.next(10), None);
    }

    #[test]
    fn who_leaves_is_not_called() {
        let mut queues = Queues::new(SHAPE);
        assert!(matches!(queues.arrive(1, 5, 1), Arrival::Runs(_)));
        let Arrival::Waits(at) = queues.arrive(2, 5, 1) else {
            panic!("no seat is free");
        };
        queues.leave(2, at);
        assert_eq!((queues.waiting(), queues.next(2)), (0, None));
    }
}
