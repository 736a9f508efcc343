// A run that was recorded, at any moment of it: the live view's reducer over the events that were told.
//
// States on the way are kept (they share what did not change), so that going back costs no more than going on.

import "./apart.js";
import { EMPTY, reduce } from "./store.js";

const KEPT_EVERY = 100;

// `recorded` as /api/runs/{id}/replay/{part} answers it. `at(timeS)` is the state at that time.
export const createReplay = ({ events, from_s: fromS, until_s: untilS }) => {
  const kept = [[-1, EMPTY]]; // [index of the last event in it, state]
  let last = kept[0];

  const messageOf = (event, n) =>
    event.kind === "snapshot"
      ? { type: "snapshot", seq: n, now: event.time_s, state: event.data }
      : { type: "events", seq: n, now: event.time_s, events: [{ ...event, seq: n }] };

  const indexAt = (timeS) => {
    let [low, high] = [0, events.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (events[middle].time_s <= timeS) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  };

  const at = (timeS) => {
    const wanted = Math.max(indexAt(timeS), indexAt(fromS), events.length ? 0 : -1);
    if (wanted < last[0]) last = kept.findLast(([index]) => index <= wanted);
    let [index, state] = last;
    while (index < wanted) {
      index += 1;
      state = reduce(state, messageOf(events[index], index));
      if (index % KEPT_EVERY === 0 && index > kept.at(-1)[0]) kept.push([index, state]);
    }
    last = [index, state];
    return state;
  };

  return { fromS, untilS, at, isEmpty: events.length === 0 };
};

// The bar with the slider. `onState({state, timeS, pipeline})` hears what to show, or (null) that it is over.
export const createReplayBar = (root, onState) => {
  const find = (name) => root.querySelector(`[data-replay="${name}"]`);
  const slider = find("slider");
  const play = find("play");
  const part = find("part");
  let run = null;
  let replay = null;
  let timeS = 0;
  let playedMs = null;

  const mmss = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

  const show = () => {
    const into = timeS - run.started_s;
    slider.value = String(timeS - replay.fromS);
    set(slider, { "aria-valuetext": `${mmss(into)} into the run` });
    find("time").textContent = `${mmss(into)} of ${mmss(replay.untilS - run.started_s)}`;
    onState({ state: replay.at(timeS), timeS, pipeline: run.pipeline });
  };
  const set = (node, attributes) => Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));

  const advance = (nowMs) => {
    if (playedMs === null || !replay) return;
    timeS = Math.min(replay.untilS, timeS + ((nowMs - playedMs) / 1e3) * Number(find("speed").value));
    playedMs = timeS < replay.untilS ? nowMs : null;
    toggle();
    show();
    if (playedMs !== null) requestAnimationFrame(advance);
  };
  const toggle = () => {
    const playing = playedMs !== null;
    play.textContent = playing ? "❚❚" : "▶";
    set(play, { "aria-label": playing ? "Pause" : "Play" });
  };
  const start = () => {
    if (timeS >= replay.untilS) timeS = replay.fromS;
    playedMs = performance.now();
    toggle();
    requestAnimationFrame(advance);
  };
  const stop = () => {
    playedMs = null;
    toggle();
  };

  play.addEventListener("click", () => (playedMs === null ? start() : stop()));
  slider.addEventListener("input", () => {
    stop();
    timeS = replay.fromS + slider.valueAsNumber;
    show();
  });
  const end = () => {
    stop();
    replay = null;
    root.hidden = true;
    onState(null);
  };
  find("end").addEventListener("click", end);

  const load = async (wanted, number) => {
    const answer = await fetch(`/api/runs/${encodeURIComponent(wanted.id)}/replay/${number}`);
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error ?? `The server answered ${answer.status}.`);
    const made = createReplay(told);
    if (made.isEmpty) throw new Error(`Of run ${wanted.id} only figures are kept: there is nothing to replay.`);
    stop();
    [run, replay, timeS] = [told.run, made, made.fromS];
    find("run").textContent = run.id;
    part.replaceChildren(
      ...Array.from({ length: told.parts }, (_, n) => new Option(`part ${n + 1} of ${told.parts}`, String(n))),
    );
    part.value = String(number);
    part.hidden = told.parts < 2;
    set(slider, { min: 0, max: replay.untilS - replay.fromS, step: 0.1 });
    root.hidden = false;
    show();
    slider.focus();
  };
  part.addEventListener("change", () => load(run, Number(part.value)).catch(end));

  // Opens a run; throws an Error with words for people.
  return { open: (wanted) => load(wanted, 0) };
};
