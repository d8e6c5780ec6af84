import time
def test_x(chain, run, tmp_path):
    for i in range(3):
        t = time.time()
        e = run("explain", chain.cls, chain.data, "-o", tmp_path/f"{i}.h5", settings={"xseg.runs.sinks:FileSink.seconds": 0})
        print(time.time()-t, e)
    t=time.time(); e = run("explain", chain.cls, chain.data, "-o", tmp_path/"k.h5", die_at_flush=4,status=-9); print(time.time()-t,e, list(tmp_path.rglob('*')))
