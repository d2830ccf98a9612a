"""The page of a live cluster: what runs where, who waits, each job's progress, and who held which slot when."""

from __future__ import annotations

from manyhands.jobs.chart import CHART, chart_sections
from manyhands.report.page import page, section


def live_page() -> str:
    """The page, as HTML; what it shows it asks the controller for."""
    body = (
        '<p class="over">Jobs on a cluster</p><div class="title"><h1>manyhands</h1>'
        '<span class="status" id="state" role="status">connecting</span></div>'
        '<dl class="tiles" id="tiles"></dl>'
        + section("hosts", "What runs where", "", '<div id="places"></div>')
        + section("jobs", "Jobs", "", _JOBS)
        + chart_sections()
    )
    return page("manyhands jobs", f"<style>{_STYLE}</style>{body}", CHART + _SCRIPT, live=True)


_JOBS = """<div class="chooser"><label><input type="checkbox" id="over" checked> also those that are over</label></div>
<div class="scroll" tabindex="0" role="region" aria-label="jobs"><table><thead><tr><th scope="col">id</th>
<th scope="col">name</th><th scope="col">status</th><th scope="col">progress</th><th scope="col">loss</th>
<th scope="col">workers</th><th scope="col">user</th><th scope="col">submitted</th></tr></thead>
<tbody id="rows"></tbody></table></div>"""

_STYLE = """
.host{display:flex;flex-wrap:wrap;gap:6px;align-items:center;margin:8px 0}
.host b{min-width:88px;font-weight:550;font-size:14px}
.slot{min-width:84px;padding:4px 10px;border:1px solid var(--line);border-radius:8px;font-size:13px;
background:var(--page);overflow:hidden;text-overflow:ellipsis;white-space:nowrap;max-width:200px}
.slot.free{color:var(--soft);border-style:dashed}
.slot i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.bar{display:inline-block;vertical-align:middle;width:120px;height:8px;border-radius:4px;background:var(--line);
margin-right:8px;overflow:hidden}.bar i{display:block;height:100%;background:var(--train)}
td .word{font-weight:550}
.word.finished{color:var(--good)}.word.failed{color:var(--bad)}.word.running{color:var(--train)}
.word.waiting,.word.paused,.word.pausing{color:var(--warn)}
"""

_SCRIPT = """
(() => {
  const state = document.getElementById('state'), places = document.getElementById('places');
  const rows = document.getElementById('rows'), tiles = document.getElementById('tiles');
  const over = document.getElementById('over');
  let found = null, update = null, asked = 0;
  const make = (tag, text, kind) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (kind) node.className = kind;
    return node;
  };
  const hue = job => `hsl(${(job * 137.508) % 360} 62% ${50 + 12 * ((job * 7) % 3 - 1)}%)`;
  const time = s => { for (const [unit, size] of [['d', 86400], ['h', 3600], ['m', 60]])
    if (s >= 2 * size) return (s / size).toFixed(1) + unit; return Math.round(s) + 's'; };
  function say(word, kind) { state.textContent = word; state.className = 'status ' + kind; }
  function tile(name, value) {
    const box = make('div');
    box.append(make('dt', name), make('dd', value));
    return box;
  }
  function showHosts() {
    const names = Object.fromEntries(found.jobs.map(job => [job.id, job.name]));
    const holders = {};
    for (const job of found.jobs) for (const slot of job.slots) (holders[slot] = holders[slot] || []).push(job.id);
    places.replaceChildren(...found.hosts.map(host => {
      const row = make('div', undefined, 'host');
      row.append(make('b', host.there ? host.name : host.name + ' (gone)'));
      for (const slot of host.there ? host.numbers : []) {
        const held = holders[slot] || [], box = make('span', undefined, held.length ? 'slot' : 'slot free');
        if (!held.length) box.textContent = 'free';
        held.forEach(id => {
          const dot = make('i'); dot.style.background = hue(id);
          box.append(dot, `${id} ${names[id]} `);
        });
        row.append(box);
      }
      return row;
    }));
    return Object.keys(holders).length;
  }
  function showJobs() {
    const shown = found.jobs.filter(job => over.checked || !job.ended).reverse();
    rows.replaceChildren(...shown.map(job => {
      const row = make('tr'), status = make('td'), progress = make('td'), bar = make('span', undefined, 'bar');
      row.dataset.job = job.id;
      status.append(make('span', job.status, 'word ' + job.status));
      if (job.error) { status.append(make('br'), make('small', job.error)); }
      const part = make('i');
      part.style.width = (job.total_steps ? 100 * job.step / job.total_steps : 0) + '%';
      bar.append(part);
      progress.append(bar, `${job.step} of ${job.total_steps || '?'}`);
      const asked = job.least === job.most ? job.least : `${job.least} to ${job.most}`;
      const loss = job.loss === null || job.loss === undefined ? '' : job.loss.toFixed(4);
      row.append(make('td', job.id), make('td', job.name), status, progress, make('td', loss),
        make('td', job.slots.length ? `${job.slots.length} (${asked})` : asked), make('td', job.user),
        make('td', time(found.now - job.submitted) + ' ago'));
      return row;
    }));
  }
  function show() {
    const used = showHosts(), slots = found.hosts.reduce((a, host) => a + (host.there ? host.slots : 0), 0);
    showJobs();
    const count = word => found.jobs.filter(job => job.status === word).length;
    tiles.replaceChildren(tile('slots in use', `${used} of ${slots}`), tile('running', count('running')),
      tile('waiting', count('waiting')), tile('finished', count('finished')), tile('failed', count('failed')),
      tile('policy', found.controller.policy));
  }
  over.addEventListener('change', () => { if (found) showJobs(); });
  let token = sessionStorage.getItem('token') || '';
  function enter() {  // a link's token: kept for this tab, and gone from where others may read it
    const given = new URLSearchParams(location.hash.slice(1)).get('token');
    if (!given) return;
    sessionStorage.setItem('token', token = given);
    history.replaceState(null, '', location.pathname);
  }
  async function ask(path) {
    const answer = token && await fetch(path, {headers: {Authorization: 'Bearer ' + token}});
    if (!token || answer.status === 401)
      throw new Error('open the page with the link that `manyhands up` printed');
    if (!answer.ok) throw new Error((await answer.json()).error);
    return answer.json();
  }
  async function chart() {
    asked = performance.now();
    const data = await ask('/api/history');
    if (update) update(data); else update = drawSlots(data);
  }
  async function follow() {
    for (let after = '';;) {
      try {
        found = await ask('/api/cluster' + after);
        after = '?after=' + found.version;
        say('live', 'running');
        show();
        if (performance.now() - asked > 1000) await chart();
        await new Promise(done => setTimeout(done, 200));
      } catch (error) {
        say(error instanceof TypeError ? 'the controller is gone' : error.message, 'failed');
        after = '';
        await new Promise(done => setTimeout(done, 1000));
      }
    }
  }
  enter();
  addEventListener('hashchange', enter);
  follow();
})();
"""
