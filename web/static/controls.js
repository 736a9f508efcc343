// Strategy, model, start, stop and frame rate. What is pressed is what the server says; a click only asks.

import { byId, html, say, set } from "./dom.js";

const TOKEN_KEY = "d3bed.token";

const askToken = async () => {
  const dialog = byId("token-dialog");
  const field = byId("token");
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  return dialog.returnValue === "use" ? field.value.trim() : "";
};

// POST as JSON; asks for the token once when the server wants one. Throws an Error with the server's words.
export const post = async (path, body) => {
  const send = () => {
    const token = sessionStorage.getItem(TOKEN_KEY);
    return fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) },
      body: JSON.stringify(body),
    });
  };
  let answer = await send().catch(() => {
    throw new Error("The server cannot be reached.");
  });
  if (answer.status === 401) {
    const token = await askToken();
    if (!token) throw new Error("This needs the server's token.");
    sessionStorage.setItem(TOKEN_KEY, token);
    answer = await send();
    if (answer.status === 401) sessionStorage.removeItem(TOKEN_KEY);
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error ?? `The server answered ${answer.status}.`);
  return told;
};

export const createControls = () => {
  const strategies = byId("strategies");
  const model = byId("model");
  let pipeline = null;
  let offered = {};

  // Runs `order` for a button: busy while it lasts, its error beside it.
  const perform = async (button, problem, path, body) => {
    if (!pipeline || button.getAttribute("aria-busy")) return;
    say(problem, "");
    set(button, { "aria-busy": "true" });
    try {
      await post(`/api/pipelines/${encodeURIComponent(pipeline.id)}/${path}`, body);
    } catch (error) {
      say(problem, error.message);
    } finally {
      set(button, { "aria-busy": null });
    }
  };

  strategies.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (button) perform(button, byId("strategy-problem"), "strategy", { strategy: button.value });
  });
  byId("model-form").addEventListener("submit", (event) => {
    event.preventDefault();
    perform(event.submitter, byId("model-problem"), "model", { model: model.value });
  });
  byId("run-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const frames = byId("frames").valueAsNumber;
    perform(byId("start"), byId("run-problem"), "start", Number.isNaN(frames) ? {} : { frames });
  });
  byId("rate-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const rate = byId("rate").valueAsNumber;
    const wanted = Number.isNaN(rate) ? null : rate;
    perform(byId("set-rate"), byId("rate-problem"), "rate", { rate_per_s: wanted });
  });
  byId("stop").addEventListener("click", ({ target }) => perform(target, byId("run-problem"), "stop", {}));

  const offer = (state) => {
    strategies.replaceChildren(
      ...state.strategies.map((name) =>
        html("button", { type: "button", value: name, "aria-pressed": "false" }, name),
      ),
    );
    const names = [...new Set([...state.models, ...(pipeline?.model ? [pipeline.model] : [])])];
    model.replaceChildren(...names.map((name) => html("option", { value: name }, name)));
    if (pipeline?.model) model.value = pipeline.model;
  };

  return (state, now) => {
    const modelChanged = now?.model !== pipeline?.model;
    pipeline = now;
    if (modelChanged || state.strategies !== offered.strategies || state.models !== offered.models) {
      offered = { strategies: state.strategies, models: state.models };
      offer(state);
    }
    for (const button of strategies.children)
      set(button, { "aria-pressed": String(button.value === pipeline?.strategy), disabled: !pipeline });
    set(byId("load"), { disabled: !pipeline });
    set(byId("set-rate"), { disabled: !pipeline });
    set(byId("start"), { disabled: !pipeline || pipeline.counting });
    set(byId("stop"), { disabled: !pipeline?.counting });
  };
};
