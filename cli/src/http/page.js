"use strict";
(() => {
  const every = 5000;
  const stale = document.getElementById("stale");
  let answered = new Date();
  const isBusy = () => document.activeElement && document.activeElement.form || String(getSelection() || "") !== "";
  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(every) });
      if (!answer.ok) throw new Error(answer.statusText);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      answered = new Date();
      stale.hidden = true;
      if (isBusy()) return;
      const focused = document.activeElement && document.activeElement.id;
      const scrolled = [...document.querySelectorAll(".scroll")].map(one => one.scrollLeft);
      document.title = fresh.title;
      for (const part of ["#who", "main", "#updated"]) document.querySelector(part).replaceWith(fresh.querySelector(part));
      document.querySelectorAll(".scroll").forEach((one, at) => { one.scrollLeft = scrolled[at] || 0; });
      if (focused && document.getElementById(focused)) document.getElementById(focused).focus({ preventScroll: true });
    } catch {
      stale.textContent = "This worker has not answered since " + answered.toLocaleTimeString() + ". What you see is from then.";
      stale.hidden = false;
    }
  };
  setInterval(refresh, every);
  document.addEventListener("visibilitychange", refresh);
})();
