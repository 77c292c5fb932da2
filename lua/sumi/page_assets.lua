-- page_assets.lua -- style and script of the report page. No network, no framework; without JavaScript everything is
-- there, with the last samples shown.
local assets = {}

assets.css = [[
:root{--bg:#fbfbf9;--card:#fff;--ink:#1d1d1b;--soft:#6a6a66;--line:#e3e3dd;--grid:#e6e6e1;--accent:#0072b2;
--good:#00795a;--bad:#b3261e;--warn:#a05a00;--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media(prefers-color-scheme:dark){:root{--bg:#141517;--card:#1c1e21;--ink:#e8e8e4;--soft:#9a9b9d;--line:#303338;
--grid:#303338;--accent:#56b4e9;--good:#4cc79d;--bad:#ff8a80;--warn:#e6a94d}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:4rem}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",
"Liberation Sans",sans-serif}
header,main,footer{max-width:1160px;margin:0 auto;padding:0 24px}
header{padding-top:44px}
h1{font-size:2.1rem;line-height:1.15;letter-spacing:-.02em;margin:0 0 .3rem;font-weight:680}
h2{font-size:1.22rem;letter-spacing:-.01em;margin:3.2rem 0 .9rem;padding-bottom:.4rem;border-bottom:1px solid var(--line);
font-weight:640}
h3{font-size:.98rem;margin:0 0 .35rem;font-weight:620}
p{margin:.4rem 0 .9rem;max-width:75ch}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
.lead{color:var(--soft);font-size:1.02rem;max-width:80ch}
.brand{font:600 .78rem/1 var(--mono);letter-spacing:.14em;text-transform:uppercase;color:var(--soft);margin-bottom:.9rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:1.1rem 0 0;font-size:.92rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:1.6rem 0 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:1.32rem;font-weight:640;letter-spacing:-.01em;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.82rem}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:10px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.46rem .9rem;border-top:1px solid var(--line);vertical-align:middle;white-space:nowrap}
thead th{border-top:0;color:var(--soft);font-weight:560;font-size:.82rem}
tbody th{font-weight:560}
td.n,th.n{text-align:right}
td.wrap{white-space:normal;min-width:22rem}
td.differs{background:color-mix(in srgb,var(--warn) 13%,transparent)}
code,pre,.mono{font-family:var(--mono);font-size:.84rem}
pre{overflow:auto;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;line-height:1.5;
max-height:32rem;tab-size:2}
.note{color:var(--soft);font-size:.84rem;margin:.6rem 0 0;max-width:120ch}
.state{display:inline-block;padding:.05rem .55rem;border-radius:99px;font-size:.78rem;font-weight:600;
border:1px solid currentColor}
.done{color:var(--good)}.failed,.diverged,.lost{color:var(--bad)}.stopped,.unknown{color:var(--warn)}.running{color:var(--accent)}
.figures{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:18px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;min-width:0}
figure.wide{grid-column:1/-1}
figure svg.plot{display:block;width:100%;height:auto}
.gridline{stroke:var(--grid)}
figcaption{color:var(--soft);font-size:.82rem;margin-top:.5rem}
.files{margin-left:.4rem;white-space:nowrap}.files a{margin-right:.5rem}
.spark{vertical-align:middle;margin-left:.5rem}
.samples{display:flex;flex-wrap:wrap;gap:18px}
.viewer{flex:0 1 auto}
.viewer .frame{display:none;margin:0}
.viewer .frame.on{display:block}
.viewer img{display:block;max-width:100%;height:auto;border-radius:3px;cursor:zoom-in}
img.small{image-rendering:pixelated}
.frame small{color:var(--soft);font-size:.78rem}
.bar{display:none;position:sticky;top:0;z-index:5;background:color-mix(in srgb,var(--bg) 92%,transparent);
backdrop-filter:blur(6px);padding:.7rem 0;margin-bottom:.8rem;gap:14px;align-items:center}
.js .bar{display:flex}
.bar input[type=range]{flex:1;accent-color:var(--accent)}
.bar output{min-width:11ch;text-align:right;font-variant-numeric:tabular-nums}
button{font:inherit;font-size:.86rem;color:var(--ink);background:var(--card);border:1px solid var(--line);border-radius:7px;
padding:.25rem .8rem;cursor:pointer}button:hover{border-color:var(--accent)}
.all .viewer{flex:1 0 100%}
.all .frames{display:flex;flex-wrap:wrap;gap:12px}
.all .viewer .frame{display:block;width:calc(25% - 9px);min-width:180px}
.all .viewer img{width:100%}
.strip{display:grid;gap:8px;align-items:start;overflow-x:auto}
.strip>div{font-size:.8rem;color:var(--soft);min-width:0}
.strip img{width:100%;height:auto}figure.wide+figure.wide{margin-top:18px}
details{margin:.5rem 0}summary{cursor:pointer;font-weight:560}
dialog{border:0;padding:0;background:transparent;max-width:96vw;max-height:96vh}
dialog::backdrop{background:#000c}
dialog img{image-rendering:pixelated;max-width:96vw;max-height:94vh;min-width:min(60vw,60vh);cursor:zoom-out}
th.sort{cursor:pointer}th.sort:hover{color:var(--accent)}
footer{color:var(--soft);font-size:.82rem;padding-top:3rem;padding-bottom:3rem}
@media(max-width:860px){.figures{grid-template-columns:1fr}header,main,footer{padding-left:14px;padding-right:14px}}
@media print{:root{--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--grid:#ddd}body{font-size:10pt}
.bar,nav,.files,button{display:none!important}h2{break-after:avoid}figure,tr,.viewer{break-inside:avoid}
h2{margin-top:1.6rem}header{padding-top:0}.tiles{grid-template-columns:repeat(5,1fr)}.tile{padding:6px 10px}
.figures{grid-template-columns:1fr 1fr;gap:8px}figure{padding:8px 10px}.scroll{overflow:visible;border:0}
table{font-size:8pt}th,td{padding:.25rem .45rem;white-space:normal}td.wrap{min-width:0}td.n{white-space:nowrap}
.viewer{flex:1 0 100%}.viewer .frames{display:flex;flex-wrap:wrap;gap:6px}
.viewer .frame{display:block!important;width:23%}.viewer img{width:100%}pre{max-height:none;white-space:pre-wrap}}
]]

assets.js = [[
(function () {
  var root = document.documentElement, $$ = function (q, e) { return Array.from((e || document).querySelectorAll(q)); };
  root.classList.add('js');

  // One slider for all sample grids: each shows its newest grid that is not later than the chosen step.
  var section = document.getElementById('samples');
  if (section) {
    var steps = Array.from(new Set($$('.frame', section).map(function (f) { return +f.dataset.step; })));
    steps.sort(function (a, b) { return a - b; });
    var range = document.getElementById('step'), out = document.getElementById('at'), timer = null;
    if (steps.length < 2) range.parentNode.style.display = 'none';
    range.max = steps.length - 1;
    range.value = range.max;
    var show = function () {
      var at = steps[+range.value];
      out.textContent = 'step ' + at;
      $$('.viewer', section).forEach(function (v) {
        var frames = $$('.frame', v), pick = frames[0];
        frames.forEach(function (f) { if (+f.dataset.step <= at) pick = f; });
        frames.forEach(function (f) { f.classList.toggle('on', f === pick); });
      });
    };
    range.addEventListener('input', show);
    document.getElementById('play').addEventListener('click', function () {
      if (timer) { clearInterval(timer); timer = null; this.textContent = 'Play'; return; }
      this.textContent = 'Pause';
      timer = setInterval(function () {
        range.value = +range.value >= steps.length - 1 ? 0 : +range.value + 1;
        show();
      }, 600);
    });
    document.getElementById('all').addEventListener('click', function () {
      this.textContent = section.classList.toggle('all') ? 'One step' : 'All steps';
    });
    show();
  }

  // Click a picture to see it large, pixel by pixel.
  var dialog = document.getElementById('zoom');
  $$('.viewer img, .strip img').forEach(function (img) {
    img.addEventListener('click', function () {
      dialog.firstElementChild.src = img.src;
      dialog.firstElementChild.alt = img.alt;
      dialog.showModal();
    });
  });
  dialog.addEventListener('click', function () { dialog.close(); });

  // Click a column's head to sort by it; again to turn the order round.
  $$('table.sortable').forEach(function (table) {
    $$('thead th', table).forEach(function (th, k) {
      var up = false;
      th.classList.add('sort');
      th.addEventListener('click', function () {
        var value = function (tr) { var c = tr.cells[k]; return c.dataset.v !== undefined ? +c.dataset.v : c.textContent; };
        up = !up;
        $$('tbody tr', table).sort(function (a, b) {
          var x = value(a), y = value(b);
          return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
        }).forEach(function (tr) { table.tBodies[0].appendChild(tr); });
      });
    });
  });
})();
]]

return assets
