// uPlot, where its file is there (`web/vendor.py`): it comes with the first chart that is seen.

import { html } from "./dom.js";

let coming = null;
let failed = false; // then charts are plain until the page is loaded again

export const hasCharts = () => document.body.dataset.uplot !== undefined && !failed;

// Resolves to uPlot; rejects where it does not come.
export const loadCharts = () =>
  (coming ??= import("./vendor/uPlot.js").then(
    ({ default: uPlot }) => {
      document.head.append(html("link", { rel: "stylesheet", href: "/static/vendor/uPlot.css" }));
      return uPlot;
    },
    (error) => {
      failed = true;
      throw error;
    },
  ));
