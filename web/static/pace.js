// When what is drawn. Messages only say that something changed; a view is drawn on an animation frame, so often
// at most as it is looked at: what moves faster than people read, in steps; what is off the screen, seldom or,
// where it is a picture, not until it is seen. A frame that has taken its time leaves the rest to the next one,
// and where frames are dear (a slow machine), all pauses grow with what they cost.

const TICK_MS = 150; // between frames that change something: each costs its painting, however little it changes
const BUDGET_MS = 24; // of scripts in one frame
const FRAME_MS = 16; // a frame that costs more than this, painting included, is dear
const MOST = 6; // pauses grow so many times at most
const NEAR_PX = 200; // what is so near to the screen counts as seen

// How many times longer pauses get where a frame costs `costMs`.
export const stretch = (costMs) => Math.min(MOST, Math.max(1, costMs / FRAME_MS));

// What is drawn in a frame at `nowMs`: those whose time has come, the longest overdue first.
export const dueAt = (views, nowMs) => views.filter((view) => view.dueMs <= nowMs).sort((a, b) => a.dueMs - b.dueMs);

// `begin` is called first in every frame, `ended` after the last view of it.
export const createPace = ({ begin, ended }) => {
  const views = [];
  const seen = new Set();
  const whenSeen = new Map();
  let [asked, timer, timerMs, costMs, frameMs] = [false, null, Infinity, 0, -Infinity];
  // Before the first drawing cards are empty and all on the screen: that is no reason to load what they show.
  let waiting = new Set();
  const watch = (card) => (waiting ? waiting.add(card) : watching.observe(card));

  const watching = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) {
          seen.delete(target);
          continue;
        }
        seen.add(target);
        whenSeen.get(target)?.forEach((act) => act());
        whenSeen.delete(target);
        for (const view of views) if (view.card === target) view.dueMs = 0;
      }
      schedule();
    },
    { rootMargin: `${NEAR_PX}px` },
  );

  const frame = () => {
    asked = false;
    const startMs = performance.now();
    begin();
    // What is due before half a tick has passed is not worth a frame of its own.
    const due = dueAt(views, startMs + (TICK_MS / 2) * stretch(costMs));
    while (due.length && performance.now() - startMs < BUDGET_MS) {
      const view = due.shift();
      view.draw(!view.card || seen.has(view.card));
      [view.drawnMs, view.dueMs] = [startMs, Infinity];
    }
    // The rest goes on with the next frame.
    for (const view of due) view.dueMs = 0;
    if (!due.length) {
      frameMs = startMs;
      waiting?.forEach((card) => watching.observe(card));
      waiting = null;
    }
    ended();
    weigh(startMs);
    schedule();
  };

  // A task that was posted in a frame runs when that is painted.
  const painted = new MessageChannel();
  let weighedMs = null;
  painted.port1.onmessage = () => {
    costMs += 0.2 * (performance.now() - weighedMs - costMs);
    weighedMs = null;
  };
  const weigh = (startMs) => {
    if (weighedMs !== null) return;
    weighedMs = startMs;
    painted.port2.postMessage(null);
  };

  // No frame is asked for before something is due.
  const schedule = () => {
    const dueMs = Math.min(...views.map((view) => view.dueMs));
    if (asked || dueMs === Infinity) return;
    const nextMs = dueMs && Math.max(dueMs, frameMs + TICK_MS * stretch(costMs));
    const waitMs = nextMs - performance.now();
    if (waitMs <= 0) {
      clearTimeout(timer);
      [asked, timer, timerMs] = [true, null, Infinity];
      requestAnimationFrame(frame);
    } else if (nextMs < timerMs) {
      clearTimeout(timer);
      timerMs = nextMs;
      timer = setTimeout(() => {
        [timer, timerMs] = [null, Infinity];
        schedule();
      }, waitMs);
    }
  };

  return {
    // `draw(isSeen)` at most every `everyMs`, or `unseenMs` while `card` is off the screen (Infinity: not then).
    add: (card, everyMs, unseenMs, draw) => {
      views.push({ card, everyMs, unseenMs, draw, drawnMs: -Infinity, dueMs: Infinity });
      if (card) watch(card);
    },
    // Something changed.
    ask: () => {
      const times = stretch(costMs);
      for (const view of views) {
        const pauseMs = !view.card || seen.has(view.card) ? view.everyMs : view.unseenMs;
        if (pauseMs < Infinity) view.dueMs = Math.min(view.dueMs, view.drawnMs + pauseMs * times);
      }
      schedule();
    },
    // Somebody acted: all that is seen is drawn with the next frame.
    now: () => {
      for (const view of views) if (!view.card || seen.has(view.card)) view.dueMs = 0;
      schedule();
    },
    // Calls `act` once, when `card` comes near the screen.
    near: (card, act) => {
      whenSeen.set(card, [...(whenSeen.get(card) ?? []), act]);
      watch(card);
    },
  };
};
