// uPlot, where its file is there (`web/vendor.py`): it comes with the first chart that is seen.

import { html } from "./dom.js";

let coming = null;
let failed = false; // then charts are plain until the page is loaded again

export const hasCharts = () => document.body.dataset.uplot !== undefined && !failed;

// Resolves to uPlot; rejects where it does not come.
export const loadCharts = () =>
  (coming ??= new Promise((resolve, reject) => {
    const script = html("script", { src: "/static/vendor/uPlot.js" });
    script.addEventListener("load", () => {
      document.head.append(html("link", { rel: "stylesheet", href: "/static/vendor/uPlot.css" }));
      resolve(globalThis.uPlot);
    });
    script.addEventListener("error", () => {
      failed = true;
      reject(new Error("The charts did not come."));
    });
    document.head.append(script);
  }));
