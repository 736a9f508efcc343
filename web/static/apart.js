// The styles of what most never open: imported by all of that.

import { html } from "./dom.js";

document.head.append(html("link", { rel: "stylesheet", href: "/static/apart.css" }));
