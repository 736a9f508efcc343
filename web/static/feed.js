// The event feed: one WebSocket that resumes from the last number it saw.
//
// Messages are handed on as they come, in order and without gaps; a gap closes the socket, and the
// next one asks for what was missed. A hidden tab lets go of its socket and resumes when it is seen.

import { follows } from "./store.js";

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 8_000;

// `lastSeq` is the number of the state already in the page (null: none). `onState` hears "live",
// "reconnecting" and "paused".
export const openFeed = ({ lastSeq, onMessage, onState }) => {
  let seq = lastSeq;
  let socket = null;
  let timer = null;
  let delayMs = FIRST_DELAY_MS;

  const connect = () => {
    timer = null;
    const url = new URL("/ws/events", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    if (seq !== null) url.searchParams.set("after", seq);
    const mine = (socket = new WebSocket(url));
    mine.onopen = () => onState("live");
    mine.onmessage = ({ data }) => {
      if (mine !== socket) return;
      const message = JSON.parse(data);
      if (message.type !== "snapshot" && (seq === null || !follows(seq, message))) {
        mine.close();
        return;
      }
      delayMs = FIRST_DELAY_MS;
      seq = message.seq;
      onMessage(message);
    };
    mine.onclose = () => {
      if (mine !== socket) return;
      socket = null;
      onState("reconnecting");
      // Half of the delay is random, so that pages do not all come back at one moment.
      timer = setTimeout(connect, delayMs * (0.5 + Math.random() / 2));
      delayMs = Math.min(LONGEST_DELAY_MS, delayMs * 2);
    };
  };

  const release = () => {
    clearTimeout(timer);
    timer = null;
    const old = socket;
    socket = null;
    old?.close();
  };

  const resume = () => {
    if (document.hidden || socket) return;
    release();
    delayMs = FIRST_DELAY_MS;
    onState("reconnecting");
    connect();
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      release();
      onState("paused");
    } else {
      resume();
    }
  });
  window.addEventListener("online", resume);
  window.addEventListener("pagehide", release);
  window.addEventListener("pageshow", resume);
  resume();
};
