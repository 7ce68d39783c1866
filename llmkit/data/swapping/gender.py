"""Words of English and Chinese for women and men, in pairs: `builtin:gender`."""

GENDER = """
# English. `her` is him or his, and `his` is her or hers: one word can't tell. her and his are swapped for each other,
# which is right where something is somebody's (her book); `him` and `hers` are swapped in their own way only.
he, she
his, her
him -> her
hers -> his
himself, herself
man, woman
men, women
Mr, Ms
Mrs -> Mr
boy, girl
boys, girls
boyfriend, girlfriend
boyfriends, girlfriends
father, mother
fathers, mothers
dad, mom
dads, moms
daddy, mommy
mum -> dad
grandfather, grandmother
grandfathers, grandmothers
grandpa, grandma
grandson, granddaughter
grandsons, granddaughters
father-in-law, mother-in-law
son, daughter
sons, daughters
brother, sister
brothers, sisters
uncle, aunt
uncles, aunts
nephew, niece
nephews, nieces
husband, wife
husbands, wives
widower, widow
widowers, widows
groom, bride
king, queen
kings, queens
prince, princess
princes, princesses
lord, lady
lords, ladies
gentleman -> lady
gentlemen -> ladies
sir, madam
hero, heroine
heroes, heroines
actor, actress
actors, actresses
waiter, waitress
waiters, waitresses
steward, stewardess
stewards, stewardesses
landlord, landlady
landlords, landladies
policeman, policewoman
policemen, policewomen
fireman, firewoman
firemen, firewomen
businessman, businesswoman
businessmen, businesswomen
chairman, chairwoman
chairmen, chairwomen
salesman, saleswoman
salesmen, saleswomen
spokesman, spokeswoman
spokesmen, spokeswomen
schoolboy, schoolgirl
schoolboys, schoolgirls
male, female
males, females
masculine, feminine
fatherhood, motherhood
brotherhood, sisterhood
manhood, womanhood

# 中文
他, 她
先生, 女士
男人, 女人
男孩, 女孩
男生, 女生
男子, 女子
男士 -> 女士
男性, 女性
男的, 女的
男友, 女友
男朋友, 女朋友
男医生, 女医生
男老师, 女老师
男演员, 女演员
男主人, 女主人
男主角, 女主角
小伙子, 小姑娘
父亲, 母亲
爸爸, 妈妈
爷爷, 奶奶
外公, 外婆
祖父, 祖母
外祖父, 外祖母
伯父, 伯母
叔叔, 阿姨
舅舅, 舅妈
姑父, 姑妈
岳父, 岳母
公公, 婆婆
儿子, 女儿
孙子, 孙女
哥哥, 姐姐
弟弟, 妹妹
兄弟, 姐妹
丈夫, 妻子
老公, 老婆
新郎, 新娘
国王, 女王
王子, 公主
皇帝, 女皇

# These hold such a word and mean something else: they stay as they are.
其他, 其他
吉他, 吉他
他人, 他人
他国, 他国
他乡, 他乡
他日, 他日
他处, 他处
他杀, 他杀
利他, 利他
排他, 排他
维他命, 维他命
马耳他, 马耳他
犹他, 犹他
孙子兵法, 孙子兵法
男女, 男女
妇女, 妇女
子女, 子女
儿女, 儿女
少女, 少女
美女, 美女
他法, 他法
他山之石, 他山之石
首先生, 首先生
优先生, 优先生
原先生, 原先生
率先生, 率先生
预先生, 预先生
事先生, 事先生
先生成, 先生成
先生产, 先生产
"""
"""A list as `llmkit.data.swapping.pairs.read_swaps` reads it from a file; of our own writing."""
